"""A batch in the making: what is left of the budget, and the counts. Decides nothing."""

from dataclasses import dataclass, field

from gpu_worker.scheduling.batch import Batch, ScheduledSequence
from gpu_worker.scheduling.sequence import Sequence


@dataclass(slots=True)
class Plan:
    """The sequences of the next step so far. `budget` is how many prefill tokens may still be added."""

    budget: int
    decodes: list[ScheduledSequence] = field(default_factory=list)
    chunks: list[ScheduledSequence] = field(default_factory=list)
    num_prefill_tokens: int = 0
    num_new_sequences: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0

    def add_decode(self, sequence: Sequence) -> None:
        """One token, and the next one from it."""
        self.decodes.append(ScheduledSequence(sequence, 1, samples=True))

    def add_chunk(self, sequence: Sequence) -> None:
        """As much of a prefill as the budget allows."""
        num_tokens = min(sequence.num_uncomputed_tokens, self.budget)
        is_last, is_sampled = num_tokens == sequence.num_uncomputed_tokens, sequence.max_new_tokens > 0
        chunk = ScheduledSequence(sequence, num_tokens, is_last and is_sampled, is_last and not is_sampled)
        self.chunks.append(chunk)
        self.num_prefill_tokens += num_tokens
        self.budget -= num_tokens

    def batch(self) -> Batch:
        """The batch, decodes first."""
        return Batch(
            self.decodes + self.chunks,
            len(self.decodes),
            self.num_prefill_tokens,
            self.num_new_sequences,
            self.num_cached_tokens,
            self.num_preemptions,
        )
