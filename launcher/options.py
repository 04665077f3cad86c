"""The command line of `millrace serve`: every flag of every stage once, those of the launcher, and SGLang's others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detokenizer_svc.settings import DetokenizerSettings
from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from launcher.compatibility import add_foreign_flags, add_vllm_names
from launcher.settings import ChatSettings, ServeSettings
from tokenizer_svc.settings import TokenizerSettings
from wire.settings import ENV_PREFIX, CommonSettings, build, build_parser, refuse_unknown_variables

_KINDS = (ServeSettings, GatewaySettings, TokenizerSettings, WorkerSettings, DetokenizerSettings, CommonSettings)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything that was asked for, checked. `has_own_nats`: no broker was named, so one is to be started."""

    serve: ServeSettings
    gateway: GatewaySettings
    tokenizer: TokenizerSettings
    worker: WorkerSettings
    detokenizer: DetokenizerSettings
    common: CommonSettings
    has_own_nats: bool
    is_memory_share_given: bool
    ignored_flags: tuple[str, ...]


def read_options(argv: Sequence[str], environ: Mapping[str, str]) -> ServeOptions:
    """The options from flags and variables; a bad one is a usage error with exit status 2."""
    parser = build_parser("millrace serve", _KINDS)
    parser.usage = "%(prog)s [MODEL] [flags]; --help lists them"  # an error must not drown in the list of fifty flags
    parser.add_argument("model", nargs="?", metavar="MODEL", help="The same as --model-path")
    add_vllm_names(parser)
    add_foreign_flags(parser)
    given: dict[str, Any] = vars(parser.parse_intermixed_args(argv))
    ignored_flags = tuple(given.pop("ignored_flags", ()))
    model = given.pop("model", None)
    if model is not None and given.setdefault("model_path", model) != model:
        parser.error(f"two models: {model} and --model-path {given['model_path']}")
    refuse_unknown_variables(environ, (*_KINDS, ChatSettings), parser.error)
    if _is_given("listen_fd", given, environ):
        parser.error("--listen-fd is for a gateway on its own: serve binds --host and --port itself")
    try:
        return ServeOptions(
            build(ServeSettings, given, environ),
            build(GatewaySettings, given, environ),
            build(TokenizerSettings, given, environ),
            build(WorkerSettings, given, environ),
            build(DetokenizerSettings, given, environ),
            build(CommonSettings, given, environ),
            has_own_nats=not _is_given("nats_url", given, environ),
            is_memory_share_given=_is_given("mem_fraction_static", given, environ),
            ignored_flags=ignored_flags,
        )
    except ValueError as error:
        parser.error(str(error))


def _is_given(name: str, given: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    return name in given or ENV_PREFIX + name.upper() in environ
