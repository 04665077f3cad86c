"""Rows of tokens for one detokenizer, gathered until they can be sent, then written as `TokenBatch` columns."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gpu_worker.scheduling.batch import TokenLogprobs
from wire.columns import pack_f32, pack_u32
from wire.messages import LogprobColumns, Peer, StreamFinish, StreamOpen, TokenBatch

MAX_BATCH_BYTES = 1 << 20
PLAIN_ROW_BYTES = 16
_ROW_BYTES = 16
_FINISH_BYTES = 80
_OPEN_BYTES = 512


@dataclass(slots=True, eq=False)
class TokenRow:
    """Consecutive tokens of one stream, and what opens or ends it. `finish` gets its row number when it is written."""

    stream_id: int
    first_index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    opening: StreamOpen | None = None
    finish: StreamFinish | None = None

    def extend(self, later: "TokenRow") -> None:
        """Appends the tokens that follow directly."""
        assert later.first_index == self.first_index + len(self.token_ids), "rows of a stream have no gaps"
        self.token_ids += later.token_ids
        self.logprobs += later.logprobs
        self.finish = later.finish

    @property
    def num_bytes(self) -> int:
        """About how much the row adds to a message; an upper bound."""
        size = _ROW_BYTES + 4 * len(self.token_ids)
        if self.logprobs:
            size += sum(8 + 8 * len(logprobs.top) for logprobs in self.logprobs)
        if self.opening is not None:
            settings = self.opening.settings
            size += _OPEN_BYTES + len(self.opening.output_ids) + len(settings.prompt_tail)
            size += sum(4 * len(stop) for stop in settings.stop) + 4 * len(settings.request_id)
        return size + (_FINISH_BYTES + 4 * len(self.finish.message) if self.finish is not None else 0)


@dataclass(slots=True, eq=False)
class PlainRows:
    """Rows of one token each, of streams that are open and go on: nearly all rows are, so they are kept as columns.

    Invariant: no stream is in it twice.
    """

    stream_ids: list[int] = field(default_factory=list)
    first_indexes: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stream_ids)

    def as_rows(self) -> Iterator[TokenRow]:
        """The same as rows, which can grow."""
        columns = zip(self.stream_ids, self.first_indexes, self.token_ids, strict=True)
        return (TokenRow(stream_id, first_index, [token_id]) for stream_id, first_index, token_id in columns)

    def as_batch(self, worker: Peer, batch_seq: int) -> TokenBatch:
        """The message for these rows."""
        return TokenBatch(
            worker=worker,
            batch_seq=batch_seq,
            stream_ids=pack_u32(self.stream_ids),
            first_indexes=pack_u32(self.first_indexes),
            counts=pack_u32([1] * len(self)),
            token_ids=pack_u32(self.token_ids),
        )


def split(rows: list[TokenRow], max_bytes: int = MAX_BATCH_BYTES) -> Iterator[list[TokenRow]]:
    """The rows in order, in groups of at most `max_bytes`; one that alone is larger goes as several.

    Only an opening that is larger by itself makes a group that exceeds it.
    """
    group: list[TokenRow] = []
    size = 0
    for row in (part for whole in rows for part in _parts(whole, max_bytes)):
        row_bytes = row.num_bytes
        if group and size + row_bytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(row)
        size += row_bytes
    if group:
        yield group


def _parts(row: TokenRow, max_bytes: int) -> Iterator[TokenRow]:
    """What a long silence has gathered, or a re-attachment sends again, may exceed what the broker takes at once."""
    if row.num_bytes <= max_bytes or not row.token_ids:
        yield row
        return
    token_bytes = 4 + max((8 + 8 * len(logprobs.top) for logprobs in row.logprobs), default=0)
    step = max(1, max_bytes // 2 // token_bytes)
    for begin in range(0, len(row.token_ids), step):
        end = begin + step
        yield TokenRow(
            row.stream_id,
            row.first_index + begin,
            row.token_ids[begin:end],
            row.logprobs[begin:end],
            opening=row.opening if begin == 0 else None,
            finish=row.finish if end >= len(row.token_ids) else None,
        )


def as_batch(worker: Peer, batch_seq: int, rows: list[TokenRow]) -> TokenBatch:
    """The message for these rows."""
    return TokenBatch(
        worker=worker,
        batch_seq=batch_seq,
        stream_ids=pack_u32([row.stream_id for row in rows]),
        first_indexes=pack_u32([row.first_index for row in rows]),
        counts=pack_u32([len(row.token_ids) for row in rows]),
        token_ids=pack_u32([token_id for row in rows for token_id in row.token_ids]),
        opens=tuple(row.opening for row in rows if row.opening is not None),
        finishes=tuple(_numbered(index, row.finish) for index, row in enumerate(rows) if row.finish is not None),
        logprobs=_logprob_columns(rows),
    )


def _numbered(row: int, finish: StreamFinish) -> StreamFinish:
    return StreamFinish(
        row,
        finish.reason,
        finish.matched_token,
        finish.num_prompt_tokens,
        finish.num_output_tokens,
        finish.cached_tokens,
        finish.received_ns,
        finish.scheduled_ns,
        finish.first_token_ns,
        finish.finished_ns,
        finish.num_preemptions,
        finish.message,
    )


def _logprob_columns(rows: list[TokenRow]) -> LogprobColumns | None:
    with_logprobs = [index for index, row in enumerate(rows) if row.logprobs]
    if not with_logprobs:
        return None
    tokens = [logprobs for index in with_logprobs for logprobs in rows[index].logprobs]
    return LogprobColumns(
        rows=pack_u32(with_logprobs),
        chosen=pack_f32([token.logprob for token in tokens]),
        num_top=pack_u32([len(rows[index].logprobs[0].top) for index in with_logprobs]),
        top_ids=pack_u32([token_id for token in tokens for token_id, _ in token.top]),
        top=pack_f32([logprob for token in tokens for _, logprob in token.top]),
    )
