"""Why a request is refused or fails, and what its client is told. Knows no HTTP framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wire.messages import ErrorCode, Stage

_STATUS = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.CONTEXT_LENGTH: 400,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.INTERNAL: 500,
}
_FLAT_TYPES = {400: "BadRequestError", 404: "NotFoundError", 413: "RequestEntityTooLarge", 500: "InternalServerError"}
_NESTED_TYPES = {404: "invalid_request_error", 429: "rate_limit_error", 503: "service_unavailable"}


@dataclass(slots=True, eq=False)
class RequestError(Exception):
    """One client's error: an HTTP status and a message that states limit and value.

    `is_contract` marks a body that breaks the schema of a native route; SGLang answers those with a string.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    is_contract: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def bad_request(message: str, param: str | None = None) -> RequestError:
    """The client's mistake."""
    return RequestError(400, message, param)


def unavailable(stage: Stage) -> RequestError:
    """No instance of a stage takes new work."""
    return RequestError(503, f"No {stage.value} is ready. Try again later.", code="unavailable")


def too_large(size: int, limit: int) -> RequestError:
    """A message that the broker would refuse."""
    message = f"The request is too large: it needs a message of {size} bytes, the limit is {limit} bytes."
    return RequestError(413, message, code=ErrorCode.TOO_LARGE.value)


def unencodable(error: OverflowError) -> RequestError:
    """JSON knows longer integers than messages do; they get this far only in free-form fields."""
    return RequestError(400, f"The request holds a number that is too large: {error}.")


def from_code(code: ErrorCode, message: str) -> RequestError:
    """The HTTP form of an error that another stage reported."""
    return RequestError(_STATUS[code], message, code=code.value)


def body_of(error: RequestError) -> dict[str, Any]:
    """The body that SGLang's, OpenAI's and vLLM's clients all understand: flat keys and a nested `error`."""
    status = error.status
    server_side = "internal_error" if status >= 500 else "invalid_request_error"
    nested: dict[str, Any] | str = {
        "message": error.message,
        "type": _NESTED_TYPES.get(status, server_side),
        "param": error.param,
        "code": error.code or status,
    }
    return {
        "object": "error",
        "message": error.message,
        "type": _FLAT_TYPES.get(status, str(status)),
        "param": error.param,
        "code": status,
        "error": error.message if error.is_contract else nested,
    }
