"""The launcher's own settings: how many of each stage, and what the terminal shows."""

from typing import Annotated

import msgspec
from msgspec import Meta


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Serve: how many instances of each stage, and what the terminal shows."""

    gateways: Annotated[int, Meta(ge=0, description="Gateway processes; they share one port")] = 1
    tokenizers: Annotated[
        int, Meta(ge=0, description="Tokenizer processes", extra={"aliases": ["--tokenizer-worker-num"]})
    ] = 1
    workers: Annotated[
        int,
        Meta(
            ge=0,
            description="Worker processes, each with the whole model; spread over the visible GPUs",
            extra={"aliases": ["--dp-size", "--data-parallel-size"]},
        ),
    ] = 1
    detokenizers: Annotated[
        int, Meta(ge=0, description="Detokenizer processes", extra={"aliases": ["--detokenizer-worker-num"]})
    ] = 1
    trace_console: Annotated[bool, Meta(description="Print every request's way through the stages")] = False


class ChatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Chat: a conversation in the terminal."""

    url: Annotated[str, Meta(description="The server")] = "http://127.0.0.1:30000"
    model: Annotated[str, Meta(description="The model; the server's first if unset")] = ""
    system: Annotated[str, Meta(description="System prompt")] = ""
    temperature: Annotated[float, Meta(ge=0, description="Sampling temperature; the model's own if unset")] | None = (
        None
    )
    max_tokens: (
        Annotated[int, Meta(ge=1, description="Longest answer in tokens; up to the context if unset")] | None
    ) = None
    api_key: Annotated[str, Meta(description="The server's key", extra={"secret": True})] = ""
