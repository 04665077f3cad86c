"""A worker and a gateway for tests: batches as the one writes them, text as the other reads it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from wire.columns import pack_u32, unpack_f32, unpack_u32, unpack_u64
from wire.messages import (
    FinishReason,
    LogprobColumns,
    Peer,
    StreamFinish,
    StreamOpen,
    StreamSettings,
    TextBatch,
    TextFinish,
    TokenBatch,
)

GATEWAY = Peer("gateway-1", 1)
WORKER = Peer("worker-1", 1)


def settings(
    *, gateway: Peer = GATEWAY, num_sequences: int = 1, tail: Sequence[int] = (), **more: Any
) -> StreamSettings:
    return StreamSettings(
        gateway=gateway, request_id="r", prompt_tail=pack_u32(tail), num_sequences=num_sequences, **more
    )


def opened(
    stream_id: int,
    key: int,
    given: StreamSettings | None = None,
    *,
    choice: int = 0,
    ids: Sequence[int] = (),
    text_len: int = 0,
) -> StreamOpen:
    return StreamOpen(
        stream_id=stream_id,
        key=key,
        choice=choice,
        settings=given or settings(),
        output_ids=pack_u32(ids),
        text_len=text_len,
        num_prompt_tokens=5,
        cached_tokens=2,
    )


def finish(
    row: int, reason: FinishReason = FinishReason.LENGTH, *, matched: int | None = None, num: int = 0
) -> StreamFinish:
    return StreamFinish(row, reason, matched, 5, num, 2, 11, 12, 13, 14, 1)


def batch(
    rows: Sequence[tuple[int, int, Sequence[int]]],
    *,
    opens: Sequence[StreamOpen] = (),
    finishes: Sequence[StreamFinish] = (),
    worker: Peer = WORKER,
    seq: int = 1,
    logprobs: LogprobColumns | None = None,
) -> TokenBatch:
    """A batch of (stream id, first index, ids)."""
    return TokenBatch(
        worker=worker,
        batch_seq=seq,
        stream_ids=pack_u32(stream_id for stream_id, _, _ in rows),
        first_indexes=pack_u32(first_index for _, first_index, _ in rows),
        counts=pack_u32(len(ids) for _, _, ids in rows),
        token_ids=pack_u32(token_id for _, _, ids in rows for token_id in ids),
        opens=tuple(opens),
        finishes=tuple(finishes),
        logprobs=logprobs,
    )


@dataclass(frozen=True)
class Row:
    """One row of a `TextBatch`."""

    key: int
    choice: int
    first_index: int
    ids: list[int]
    text_offset: int
    text: str


def rows_of(message: TextBatch) -> Iterator[Row]:
    counts = unpack_u32(message.counts)
    borders = [sum(counts[:row]) for row in range(len(counts) + 1)]
    ids = unpack_u32(message.token_ids)
    columns = (unpack_u64(message.keys), unpack_u32(message.choices), unpack_u32(message.first_indexes))
    pieces = [list(ids[begin:end]) for begin, end in pairwise(borders)]
    for key, choice, first, piece, offset, text in zip(
        *columns, pieces, unpack_u32(message.text_offsets), message.texts, strict=True
    ):
        yield Row(key, choice, first, piece, offset, text)


@dataclass
class Received:
    """One choice as a gateway puts it together; applies a row only if it is exactly the next one."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: TextFinish | None = None

    def apply(self, message: TextBatch, key: int = 1, choice: int = 0) -> None:
        for position, row in enumerate(rows_of(message)):
            if (row.key, row.choice) == (key, choice):
                assert self.finish is None, "a row after the end"
                assert row.first_index == len(self.ids)
                assert row.text_offset == len(self.text)
                self.ids += row.ids
                self.text += row.text
                self.finish = next((end for end in message.finishes if end.row == position), None)

    def seen(self) -> tuple[str, list[int], FinishReason, int | str | None, int]:
        """What a client sees of a choice that has ended."""
        assert self.finish is not None
        return self.text, self.ids, self.finish.reason, self.finish.matched, self.finish.num_output_tokens


def floats(raw: bytes) -> list[float]:
    return list(unpack_f32(raw))
