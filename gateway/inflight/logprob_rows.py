"""The logprob columns of a `TextBatch`, as one list of tokens per row."""

from collections.abc import Iterator, Sequence
from itertools import islice

from gateway.inflight.choice import TokenLogprob, TopLogprob
from wire.columns import unpack_f32, unpack_u32
from wire.messages import LogprobTexts


def by_row(columns: LogprobTexts, counts: Sequence[int]) -> dict[int, list[TokenLogprob]]:
    """The tokens of each row that has logprobs, without their ids: those are in the batch's own column."""
    chosen = zip(unpack_f32(columns.chosen), columns.texts, strict=True)
    tops = _tops(columns)
    rows = {}
    for row, num_top in zip(unpack_u32(columns.rows), unpack_u32(columns.num_top), strict=True):
        rows[row] = [
            TokenLogprob(logprob, text, tuple(islice(tops, num_top))) for logprob, text in islice(chosen, counts[row])
        ]
    return rows


def _tops(columns: LogprobTexts) -> Iterator[TopLogprob]:
    return map(TopLogprob, unpack_f32(columns.top), unpack_u32(columns.top_ids), columns.top_texts)
