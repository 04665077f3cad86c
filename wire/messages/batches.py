"""The tokens of one engine step on their way back, as columns: worker → detokenizer → gateway.

Row i of every column belongs to the same stream. Integer columns are raw little-endian (see `wire.columns`).
"""

import enum

import msgspec

from wire.messages.jobs import StreamSettings
from wire.messages.peers import Key, Peer


class FinishReason(enum.StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class StreamOpen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rides in the first batch that names its `stream_id`: all that the detokenizer must know of the stream.

    `output_ids` (u32 column) are the ids that an earlier attempt delivered; text is emitted from code point `text_len`
    on. `cached_tokens` counts the prompt tokens that the prefix cache gave.
    """

    stream_id: int
    key: Key
    choice: int
    settings: StreamSettings
    output_ids: bytes = b""
    text_len: int = 0
    num_prompt_tokens: int = 0
    cached_tokens: int = 0
    previous_hop: str = ""


class StreamFinish(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a stream. `row` indexes the batch. `matched_token` is the stop token, where one matched.

    The times are Unix nanoseconds: received by the worker, first scheduled, first token, finished.
    """

    row: int
    reason: FinishReason
    matched_token: int | None
    num_prompt_tokens: int
    num_output_tokens: int
    cached_tokens: int
    received_ns: int
    scheduled_ns: int
    first_token_ns: int
    finished_ns: int
    num_preemptions: int = 0
    message: str = ""


class LogprobColumns(msgspec.Struct, frozen=True, array_like=True):
    """Logprobs of those rows that asked for them.

    `rows` (u32) are row indexes; `chosen` (f32) has one value per token of those rows, in order; `num_top` (u32) is
    the number of alternatives per token of each row; `top_ids` (u32) and `top` (f32) hold them, token by token.
    """

    rows: bytes
    chosen: bytes
    num_top: bytes
    top_ids: bytes
    top: bytes


class TokenBatch(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Worker → detokenizer: one engine step's tokens. `batch_seq` counts from 1 per (worker, epoch, detokenizer).

    `first_indexes` (u32) is the output index of each row's first token, `counts` (u32) the number of its tokens in
    `token_ids` (u32). A stream ends by its `StreamFinish`; a finish may ride on a row without tokens.
    """

    worker: Peer
    batch_seq: int
    stream_ids: bytes
    first_indexes: bytes
    counts: bytes
    token_ids: bytes
    opens: tuple[StreamOpen, ...] = ()
    finishes: tuple[StreamFinish, ...] = ()
    logprobs: LogprobColumns | None = None


class StreamStart(msgspec.Struct, frozen=True, array_like=True):
    """Rides with a stream's first row to the gateway: what is known before the first token."""

    row: int
    num_prompt_tokens: int
    cached_tokens: int


class TextFinish(msgspec.Struct, frozen=True, array_like=True):
    """A stream's end as the client sees it: the detokenizer's stop string wins over the worker's finish.

    `matched` is the stop token id or the stop string. `num_output_tokens` counts through the token that completed
    the stop. `detokenized_ns` is the time of the last hop before the gateway.
    """

    row: int
    reason: FinishReason
    matched: int | str | None
    num_prompt_tokens: int
    num_output_tokens: int
    cached_tokens: int
    received_ns: int
    scheduled_ns: int
    first_token_ns: int
    finished_ns: int
    detokenized_ns: int
    num_preemptions: int = 0
    message: str = ""


class LogprobTexts(msgspec.Struct, frozen=True, array_like=True):
    """`LogprobColumns` with the bytes of every token: `texts` of the chosen tokens, `top_texts` of the alternatives."""

    rows: bytes
    chosen: bytes
    texts: list[bytes]
    num_top: bytes
    top_ids: bytes
    top: bytes
    top_texts: list[bytes]


class TextBatch(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Detokenizer → gateway: what one `TokenBatch` held for this gateway.

    `text_offsets` (u32) is the code point at which each row's text begins in its choice; ids whose text is held back
    travel at once, with an empty text. `keys` is a u64 column, the other integer columns are u32.
    """

    detokenizer: Peer
    worker: Peer
    keys: bytes
    choices: bytes
    first_indexes: bytes
    counts: bytes
    token_ids: bytes
    text_offsets: bytes
    texts: list[str]
    starts: tuple[StreamStart, ...] = ()
    finishes: tuple[TextFinish, ...] = ()
    logprobs: LogprobTexts | None = None
