"""A stretch of steps in which the same sequences decode and nothing else happens: nearly all steps are of this kind.

Such a step costs a few operations on whole lists, whatever the number of sequences. While a run is open, the counts of
computed and pending tokens of its sequences are those of its first step; `close` brings them up to date.
"""

from collections.abc import Callable

from gpu_worker.scheduling.batch import Batch, ScheduledSequence
from gpu_worker.scheduling.sequence import Sequence


class DecodeRun:
    """Begins with a batch of decodes that has been dispatched; `num_steps` more can follow before one is full."""

    def __init__(self, scheduled: list[ScheduledSequence], page_size: int) -> None:
        self.sequences = [one.sequence for one in scheduled]
        self.num_steps = min(sequence.num_unsampled_tokens for sequence in self.sequences)
        self.num_dispatched = 0
        self.num_committed = 0
        self._scheduled = scheduled
        self._members = frozenset(self.sequences)
        self._stopping_ids = frozenset[int]().union(*(sequence.stopping_ids for sequence in self.sequences))
        self._append: list[Callable[[int], None]] = [sequence.token_ids.append for sequence in self.sequences]
        self._first_indexes = [s.num_output_tokens + s.num_pending_tokens for s in self.sequences]
        # Every sequence needs a page every `page_size` steps: by the step, modulo the page size, in which it does.
        self._page_due: list[list[Sequence]] = [[] for _ in range(page_size)]
        for sequence in self.sequences:
            room = len(sequence.page_table) * page_size - sequence.num_tokens
            self._page_due[(room + 1) % page_size].append(sequence)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._members

    def due_for_a_page(self) -> list[Sequence]:
        """The sequences whose next token has no slot yet."""
        return self._page_due[self.num_dispatched % len(self._page_due)]

    def next_batch(self) -> Batch:
        """The same sequences once more."""
        return Batch(self._scheduled, len(self._scheduled), run=self, grown=self.due_for_a_page())

    def commit(self, token_ids: list[int]) -> list[int]:
        """Append a token to every sequence. Returns the rows that may be finished by it."""
        for append, token_id in zip(self._append, token_ids, strict=True):
            append(token_id)
        self.num_committed += 1
        if self.num_committed == self.num_steps:
            return list(range(len(token_ids)))
        if self._stopping_ids.isdisjoint(token_ids):
            return []
        return [row for row, token_id in enumerate(token_ids) if token_id in self._stopping_ids]

    def first_indexes(self) -> list[int]:
        """The output index of the tokens that were committed last."""
        step = self.num_committed - 1
        return [first + step for first in self._first_indexes]

    def close(self) -> None:
        """Bring the sequences' counts up to date."""
        for sequence in self.sequences:
            sequence.num_computed_tokens += self.num_dispatched
            sequence.num_pending_tokens += self.num_dispatched - self.num_committed
