"""The hot path in: every token of every stream passes here. One `TextBatch` in, its rows applied, their writers woken.

Columns are decoded once per batch; a plain row costs a dict look-up and a few appends.
"""

import time
from collections.abc import Callable
from typing import Protocol

from gateway.inflight.choice import Arrival, Choice, TokenLogprob
from gateway.inflight.generation import Clock, Generation, Standing
from gateway.inflight.in_flight import InFlight
from gateway.inflight.logprob_rows import by_row
from wire.columns import unpack_u32, unpack_u64
from wire.messages import StreamStart, TextBatch, TextFinish


class ArrivalCounters(Protocol):
    """What the hot path counts."""

    def count_stale_rows(self, rows: int) -> None:
        """Rows whose key is not current."""

    def count_duplicate(self) -> None:
        """A row that brought nothing new."""

    def count_malformed(self) -> None:
        """A batch whose columns do not fit together."""

    def observe_gaps_between_tokens(self, gaps: list[tuple[float, int]]) -> None:
        """Seconds since the row before of the same generation, and how many tokens came after them."""


class Arrivals:
    """Applies batches. Tells `on_gap` of generations that miss something, `on_done` of those that are complete."""

    def __init__(
        self,
        in_flight: InFlight,
        counters: ArrivalCounters,
        on_gap: Callable[[Generation], None],
        on_done: Callable[[Generation], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._in_flight = in_flight
        self._counters = counters
        self._on_gap = on_gap
        self._on_done = on_done
        self._clock = clock

    def apply(self, batch: TextBatch) -> None:
        """Takes in what is current and exact; counts the rest."""
        keys, choices = unpack_u64(batch.keys), unpack_u32(batch.choices)
        firsts, counts, offsets = map(unpack_u32, (batch.first_indexes, batch.counts, batch.text_offsets))
        token_ids, texts = unpack_u32(batch.token_ids), batch.texts
        if not len(keys) == len(choices) == len(firsts) == len(counts) == len(offsets) == len(texts):
            self._counters.count_malformed()
            return
        starts = {start.row: start for start in batch.starts}
        finishes = {finish.row: finish for finish in batch.finishes}
        logprobs = by_row(batch.logprobs, counts) if batch.logprobs else {}
        by_key = self._in_flight.by_key
        now = self._clock()
        gaps: list[tuple[float, int]] = []
        num_stale = end = 0
        for row, key in enumerate(keys):
            begin, end = end, end + counts[row]
            generation = by_key.get(key)
            if generation is None or choices[row] >= len(generation.choices):
                num_stale += 1
                continue
            choice = generation.choices[choices[row]]
            arrival = choice.apply(firsts[row], token_ids[begin:end], offsets[row], texts[row])
            if arrival is Arrival.APPLIED:
                if generation.is_delivering:
                    gaps.append((now - generation.last_token_at, end - begin))
                else:
                    gaps += self._begin_delivery(generation, now, end - begin)
                generation.last_token_at = choice.last_token_at = now
            elif arrival is Arrival.DUPLICATE:
                self._counters.count_duplicate()
            else:
                self._on_gap(generation)
                continue
            if row in logprobs:
                _extend_logprobs(choice, firsts[row], logprobs[row])
            if row in starts or row in finishes:
                self._mark(generation, choice, starts.get(row), finishes.get(row))
            if generation.call.is_streaming:  # a whole answer is wanted at its end only, which wakes by itself
                generation.call.changed.set()
        self._counters.observe_gaps_between_tokens(gaps)
        self._counters.count_stale_rows(num_stale)

    def _begin_delivery(self, generation: Generation, now: float, num_tokens: int) -> list[tuple[float, int]]:
        """The first row of an attempt: it runs, whatever the last `Progress` said. Gives the gap before it, if any."""
        generation.is_delivering = True
        self._in_flight.move(generation, Standing.RUNNING)
        if generation.last_token_at:
            return [(now - generation.last_token_at, num_tokens)]
        generation.first_token_at = now
        return []

    def _mark(
        self, generation: Generation, choice: Choice, start: StreamStart | None, finish: TextFinish | None
    ) -> None:
        edge = start or finish
        if edge is not None and not generation.has_started:
            # The hits of the first attempt that delivered: those of a resume saved the client nothing.
            generation.has_started = True
            generation.num_prompt_tokens = edge.num_prompt_tokens
            generation.cached_tokens = edge.cached_tokens
        if finish is not None and choice.finish is None:
            generation.finish(choice, finish)
            if generation.is_done:
                self._on_done(generation)


def _extend_logprobs(choice: Choice, first_index: int, row: list[TokenLogprob]) -> None:
    choice.logprobs.extend(row[len(choice.logprobs) - first_index :])
