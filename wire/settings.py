"""From a settings struct to flags, environment variables, help and checked values. Knows no setting by name but the
common ones.

A field `max_running_requests: Annotated[int, Meta(ge=1, description="…")] = 64` is the flag `--max-running-requests`
and the variable `MILLRACE_MAX_RUNNING_REQUESTS`; the flag wins. `Meta(extra={…})` may hold `aliases` (more flags),
`secret` (never shown), `internal` (not in the help) and `metavar`.
"""

import argparse
import difflib
import os
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from wire.login import BusOptions

ENV_PREFIX = "MILLRACE_"
_USER_IN_ADDRESS = re.compile(r"//[^/@\s,]+@")
S = TypeVar("S", bound=msgspec.Struct)


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every stage has: how to reach the broker, how to be seen, how to leave."""

    nats_url: Annotated[
        str,
        Meta(description="NATS server, or several separated by commas; `millrace serve` starts its own if unset"),
    ] = "nats://127.0.0.1:4222"
    nats_user: Annotated[str, Meta(description="User name at the NATS server")] = ""
    nats_password: Annotated[str, Meta(description="Password at the NATS server", extra={"secret": True})] = ""
    nats_password_file: Annotated[str, Meta(description="File whose first line is the password")] = ""
    nats_credentials_file: Annotated[str, Meta(description="File with a NATS JWT and seed (.creds)")] = ""
    nats_nkey_seed_file: Annotated[str, Meta(description="File with an nkey seed")] = ""
    nats_tls_ca_file: Annotated[str, Meta(description="CA certificate; turns TLS to the NATS server on")] = ""
    nats_tls_cert_file: Annotated[str, Meta(description="Client certificate, for a NATS server that asks for one")] = ""
    nats_tls_key_file: Annotated[str, Meta(description="Its private key; unset if the certificate file holds it")] = ""
    nats_connect_timeout: Annotated[float, Meta(gt=0, description="Seconds to wait for NATS at the start")] = 30.0
    heartbeat_timeout: Annotated[
        float, Meta(ge=1, description="Seconds of silence after which an instance counts as dead")
    ] = 2.0
    drain_timeout: Annotated[
        float, Meta(ge=0, description="Seconds that a stage finishes its work after SIGTERM before handing it back")
    ] = 25.0
    otlp_endpoint: Annotated[
        str,
        Meta(
            description="OTLP/HTTP collector, such as http://localhost:4318; off when empty",
            extra={"aliases": ["--otlp-traces-endpoint"]},
        ),
    ] = ""
    trace_sample_ratio: Annotated[float, Meta(ge=0, le=1, description="Share of new traces that are recorded")] = 1.0
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="Port of this stage's own Prometheus page; 0 is off")
    ] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    exit_on_stdin_eof: Annotated[
        bool,
        Meta(
            description="Stop when standard input ends, so that no stage outlives what started it",
            extra={"internal": True},
        ),
    ] = False

    def bus_options(self) -> BusOptions:
        """The part that `Bus.connect` takes."""
        return BusOptions(
            url=self.nats_url,
            user=self.nats_user,
            password=self.nats_password,
            password_file=self.nats_password_file,
            credentials_file=self.nats_credentials_file,
            nkey_seed_file=self.nats_nkey_seed_file,
            tls_ca_file=self.nats_tls_ca_file,
            tls_cert_file=self.nats_tls_cert_file,
            tls_key_file=self.nats_tls_key_file,
            connect_timeout_s=self.nats_connect_timeout,
            ping_interval_s=self.heartbeat_timeout / 2,
        )


def load_settings(
    program: str,
    *kinds: type[msgspec.Struct],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Any, ...]:
    """One checked struct per kind from flags and environment; a bad value is a usage error with exit status 2.

    A field that several kinds declare under the same name is one flag. `--help` lists every field with its variable.
    """
    environ = os.environ if environ is None else environ
    parser = build_parser(program, kinds)
    given = vars(parser.parse_args(argv))
    refuse_unknown_variables(environ, kinds, parser.error)
    return tuple(_build(kind, given, environ, parser.error) for kind in kinds)


def build_parser(program: str, kinds: Iterable[type[msgspec.Struct]]) -> argparse.ArgumentParser:
    """The parser for these kinds; values stay text, so that `build` checks flags and variables alike."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    seen: set[str] = set()
    for kind in kinds:
        group = parser.add_argument_group((kind.__doc__ or kind.__name__).splitlines()[0].rstrip("."))
        for option in _options(kind):
            if option.name not in seen:
                seen.add(option.name)
                group.add_argument(*option.flags, **option.argparse_keywords())
    return parser


def build(kind: type[S], given: Mapping[str, Any], environ: Mapping[str, str]) -> S:
    """The struct from parsed flags and variables; raises ValueError naming flag, variable and limit."""
    values: dict[str, Any] = {}
    for option in _options(kind):
        if option.name in given:
            values[option.name] = given[option.name]
        elif option.variable in environ:
            values[option.name] = option.from_variable(environ[option.variable])
    for name, value in values.items():
        _check(kind, name, value)
    return msgspec.convert(values, kind, strict=False)


def as_environment(settings: msgspec.Struct) -> dict[str, str]:
    """The variables that make another process load equal settings; secrets travel so and never as flags."""
    variables = {}
    for option in _options(type(settings)):
        value = getattr(settings, option.name)
        if value is not None:
            variables[option.variable] = option.to_variable(value)
    return variables


def public_values(settings: msgspec.Struct) -> dict[str, Any]:
    """The settings for showing: secrets left out, and users and passwords inside addresses."""
    shown = {option.name: getattr(settings, option.name) for option in _options(type(settings)) if not option.is_secret}
    return {
        name: _USER_IN_ADDRESS.sub("//***@", value) if isinstance(value, str) else value
        for name, value in shown.items()
    }


def refuse_unknown_variables(environ: Mapping[str, str], kinds: Iterable[type[msgspec.Struct]], fail: Any) -> None:
    """Calls `fail` for a variable with our prefix that no kind declares, because a typo must not be a default."""
    known = {option.variable for kind in kinds for option in _options(kind)}
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            fail(f"unknown environment variable {name}" + (f"; did you mean {close[0]}?" if close else ""))


class _Option:
    """One field, seen as a flag and as a variable."""

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name = name
        self.variable = ENV_PREFIX + name.upper()
        self._default = default
        meta = _meta_of(annotation)
        extra = (meta.extra if meta else None) or {}
        self._description = (meta.description if meta else None) or ""
        self.is_secret = bool(extra.get("secret"))
        self._is_internal = bool(extra.get("internal"))
        self._metavar = extra.get("metavar")
        self.flags = ["--" + name.replace("_", "-"), *extra.get("aliases", ())]
        self._type = _bare_type(annotation)

    @property
    def is_switch(self) -> bool:
        return self._type is bool

    @property
    def is_many(self) -> bool:
        return get_origin(self._type) is tuple

    def argparse_keywords(self) -> dict[str, Any]:
        keywords: dict[str, Any] = {
            "dest": self.name,
            "help": argparse.SUPPRESS if self._is_internal else self._help(),
        }
        if self.is_switch:
            keywords["action"] = argparse.BooleanOptionalAction
        elif get_origin(self._type) is Literal:
            keywords["choices"] = get_args(self._type)
        else:
            keywords["metavar"] = self._metavar or self.name.upper()
            if self.is_many:
                keywords["nargs"] = "+"
        return keywords

    def from_variable(self, text: str) -> Any:
        return [part for part in text.split(",") if part] if self.is_many else text

    def to_variable(self, value: Any) -> str:
        return ",".join(map(str, value)) if self.is_many else str(value)

    def _help(self) -> str:
        shown = "" if self._default in ("", None, (), False) or self.is_secret else f", default {self._default}"
        return f"{self._description} [{self.variable}{shown}]".strip().replace("%", "%%")


def _options(kind: type[msgspec.Struct]) -> list[_Option]:
    hints = get_type_hints(kind, include_extras=True)
    return [_Option(field.name, hints[field.name], field.default) for field in msgspec.structs.fields(kind)]


def _meta_of(annotation: Any) -> Meta | None:
    if get_origin(annotation) is Annotated:
        return next((part for part in get_args(annotation)[1:] if isinstance(part, Meta)), None)
    return next((found for part in get_args(annotation) if (found := _meta_of(part))), None)


def _bare_type(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _bare_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare_type(next(part for part in get_args(annotation) if part is not types.NoneType))
    return annotation


def _check(kind: type[msgspec.Struct], name: str, value: Any) -> None:
    annotation = get_type_hints(kind, include_extras=True)[name]
    try:
        msgspec.convert(value, annotation, strict=False)
    except msgspec.ValidationError as error:
        flag = "--" + name.replace("_", "-")
        rule = str(error).partition(", got `")[0]
        raise ValueError(f"{flag} (or {ENV_PREFIX}{name.upper()}): {rule}, got {value!r}") from error


def _build(kind: type[S], given: Mapping[str, Any], environ: Mapping[str, str], fail: Any) -> S:
    try:
        return build(kind, given, environ)
    except ValueError as error:
        return _unreachable(fail(str(error)))


def _unreachable(_: Any) -> NoReturn:
    sys.exit(2)
