"""Request/reply between the gateway and one instance of a stage."""

from typing import Annotated, Any

import msgspec

from wire.messages.control import ErrorCode
from wire.messages.jobs import Prompt


class Tokenize(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Asks a tokenizer for ids; no generation follows."""

    prompts: tuple[Prompt, ...]
    add_special_tokens: bool = True


class TokenizeReply(msgspec.Struct, frozen=True, tag=True):
    """`token_ids` has one u32 column per prompt."""

    token_ids: tuple[bytes, ...]
    context_length: int


class Detokenize(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Asks a tokenizer for the text of ids: one u32 column per text."""

    token_ids: tuple[bytes, ...]
    skip_special_tokens: bool = True


class DetokenizeReply(msgspec.Struct, frozen=True, tag=True):
    """One text per column asked for."""

    texts: tuple[str, ...]


class FlushCache(msgspec.Struct, frozen=True, tag=True):
    """Asks a worker to drop its prefix cache; refused while it has requests after `timeout_s` seconds."""

    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0


class FlushCacheReply(msgspec.Struct, frozen=True, tag=True):
    """`message` says why it was not flushed."""

    is_flushed: bool
    message: str = ""


class Describe(msgspec.Struct, frozen=True, tag=True):
    """Asks an instance what it runs with."""


class Description(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """An instance's settings (secrets left out), the model it serves, and its counters."""

    settings: dict[str, Any]
    model: dict[str, Any] = {}
    stats: dict[str, Any] = {}


class ErrorReply(msgspec.Struct, frozen=True, tag=True):
    """The reply of an instance that could not do what it was asked."""

    code: ErrorCode
    message: str
