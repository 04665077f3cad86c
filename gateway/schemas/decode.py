"""From a body's bytes to a checked struct, with the error form of each API."""

from typing import Any, TypeVar

import msgspec

from gateway.errors import RequestError, bad_request
from gateway.schemas.native import NativeSampling

S = TypeVar("S", bound=msgspec.Struct)
_SAMPLING_FIELDS = tuple(field.name for field in msgspec.structs.fields(NativeSampling))


def decode_openai(body: bytes, content_type: str, kind: type[S]) -> S:
    """An OpenAI body; any fault is a 400 in the common form."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise bad_request("Unsupported Media Type: Only 'application/json' is allowed")
    return decode_json(body, kind)


def decode_json(body: bytes, kind: type[S]) -> S:
    """A JSON body of whatever content type, as curl sends it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(_readable(error)) from error


def decode_native(body: bytes, kind: type[S]) -> S:
    """A native body: what is JSON but breaks the schema is SGLang's contract error."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _contract_error(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(_readable(error)) from error


def decode_sampling(given: dict[str, Any]) -> NativeSampling:
    """`sampling_params` of `/generate`, where an unknown field is an error that lists the known ones."""
    unknown = next((name for name in given if name not in _SAMPLING_FIELDS), None)
    if unknown is not None:
        raise _contract_error(f"unknown field `{unknown}`, expected one of `{'`, `'.join(_SAMPLING_FIELDS)}`")
    try:
        return msgspec.convert(given, NativeSampling)
    except msgspec.ValidationError as error:
        raise _contract_error(f"sampling_params: {error}") from error


def _contract_error(message: str) -> RequestError:
    return RequestError(400, message, is_contract=True)


def _readable(error: Exception) -> str:
    return f"The body is not a valid request: {error}"
