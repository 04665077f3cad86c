"""Acceptance, flow control, errors and repair: everything about a request that is not its tokens."""

import enum

import msgspec

from wire.messages.peers import Key, Peer


class ErrorCode(enum.StrEnum):
    """Why a request failed. Closed: a gateway maps each to one HTTP status."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH = "context_length_exceeded"
    QUEUE_FULL = "queue_full"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    INTERNAL = "internal_error"


class RequestState(enum.IntEnum):
    """Where a request stands with its holder; a u8 on the wire."""

    QUEUED = 0
    RUNNING = 1
    FINISHED = 2


class Progress(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Whoever holds requests → their gateway: at once on receipt, and with every heartbeat.

    Columns: `keys` u64, `states` u8 (`RequestState`), `queue_positions` u32, `num_output_tokens` u32 (summed over
    the choices of the key, those given on a resume included).
    """

    sender: Peer
    keys: bytes
    states: bytes
    queue_positions: bytes
    num_output_tokens: bytes
    is_receipt: bool = False


class BatchAck(msgspec.Struct, frozen=True, tag=True):
    """Detokenizer → worker: every batch up to and including `batch_seq` has been processed."""

    detokenizer: Peer
    worker: Peer
    batch_seq: int


class Failed(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Tokenizer, worker or detokenizer → gateway: this request's error; `message` states limit and value.

    `is_retryable` says that another attempt may succeed. `choice` is set when only one of n is lost.
    """

    key: Key
    sender: Peer
    code: ErrorCode
    message: str
    is_retryable: bool = False
    choice: int | None = None


class Released(msgspec.Struct, frozen=True, tag=True):
    """A draining instance hands requests back; `keys` is a u64 column."""

    sender: Peer
    keys: bytes
    reason: str


class ReattachPoint(msgspec.Struct, frozen=True, array_like=True):
    """From where one choice continues: next output index, and code points of text received."""

    choice: int
    next_index: int
    text_len: int


class Reattach(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Gateway → worker: re-key the sequences that you still hold, and send again from these points.

    `old_key` is any key that the request has had at this worker. The answer is a `Progress` about `new_key`, or a
    `Released` of it. `traceparent` and `tracestate` are those of the new attempt's span.
    """

    sender: Peer
    old_key: Key
    new_key: Key
    detokenizer: Peer
    points: tuple[ReattachPoint, ...]
    attempt: int = 0
    traceparent: str = ""
    tracestate: str = ""


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Gateway or detokenizer → holders: stop working on this key, or on one choice of it."""

    sender: Peer
    key: Key
    choice: int | None = None


class KvEvent(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Worker → tokenizers: pages that entered or left its prefix cache, as u64 columns of prefix hashes."""

    worker: Peer
    event_seq: int
    stored: bytes = b""
    evicted: bytes = b""
