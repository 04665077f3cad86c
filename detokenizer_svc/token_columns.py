"""A `TokenBatch` with its columns decoded once, and checked, so that nothing behind it meets a ragged batch."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from wire.columns import unpack_f32, unpack_u32
from wire.messages import LogprobColumns, TokenBatch


class MalformedBatchError(ValueError):
    """Columns that do not fit together: no row of the batch can be trusted."""


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """The logprobs of one row: per token one chosen value and `num_top` alternatives."""

    chosen: Sequence[float]
    num_top: int
    top_ids: Sequence[int]
    top: Sequence[float]

    def part(self, begin: int, end: int) -> "RowLogprobs":
        """Those of the tokens from `begin` to `end`."""
        tops = slice(begin * self.num_top, end * self.num_top)
        return RowLogprobs(self.chosen[begin:end], self.num_top, self.top_ids[tops], self.top[tops])


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """The integer columns of a batch; `counts` add up to the length of `token_ids`."""

    stream_ids: "array[int]"
    first_indexes: "array[int]"
    counts: "array[int]"
    token_ids: "array[int]"
    logprobs: dict[int, RowLogprobs]

    @classmethod
    def of(cls, batch: TokenBatch) -> "TokenColumns":
        """Decodes and checks; raises `MalformedBatchError`."""
        try:
            stream_ids = unpack_u32(batch.stream_ids)
            first_indexes = unpack_u32(batch.first_indexes)
            counts = unpack_u32(batch.counts)
            token_ids = unpack_u32(batch.token_ids)
        except ValueError as error:
            raise MalformedBatchError(str(error)) from error
        if not len(stream_ids) == len(first_indexes) == len(counts) or sum(counts) != len(token_ids):
            raise MalformedBatchError(f"{len(stream_ids)} rows, {len(counts)} counts, {len(token_ids)} ids")
        if any(not 0 <= finish.row < len(stream_ids) for finish in batch.finishes):
            raise MalformedBatchError("a finish names a row that does not exist")
        logprobs = _logprobs_by_row(batch.logprobs, counts) if batch.logprobs is not None else {}
        return cls(stream_ids, first_indexes, counts, token_ids, logprobs)


def _logprobs_by_row(columns: LogprobColumns, counts: Sequence[int]) -> dict[int, RowLogprobs]:
    try:
        rows, num_top, top_ids = (unpack_u32(raw) for raw in (columns.rows, columns.num_top, columns.top_ids))
        chosen, top = unpack_f32(columns.chosen), unpack_f32(columns.top)
    except ValueError as error:
        raise MalformedBatchError(str(error)) from error
    if len(rows) != len(num_top) or any(row >= len(counts) for row in rows):
        raise MalformedBatchError("logprobs of rows that do not exist")
    by_row: dict[int, RowLogprobs] = {}
    token = alternative = 0
    for row, width in zip(rows, num_top, strict=True):
        token_end = token + counts[row]
        alternative_end = alternative + counts[row] * width
        tops = slice(alternative, alternative_end)
        by_row[row] = RowLogprobs(chosen[token:token_end], width, top_ids[tops], top[tops])
        token, alternative = token_end, alternative_end
    if token != len(chosen) or not alternative == len(top_ids) == len(top):
        raise MalformedBatchError(f"{len(chosen)} logprobs for {token} tokens")
    return by_row
