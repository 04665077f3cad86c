"""When a sequence is finished. Pure functions of the ids and the parameters, so that a resume decides alike."""

from dataclasses import dataclass

from gpu_worker.scheduling.sequence import Finish, Sequence
from wire.sampling import SamplingParams

LENGTH = Finish("length")


@dataclass(frozen=True, slots=True)
class FinishRules:
    """What the model contributes: its end-of-sequence ids and how many tokens a sequence may hold."""

    eos_ids: frozenset[int]
    context_length: int

    def stopping_ids(self, sampling: SamplingParams) -> frozenset[int]:
        """Ids that end a sequence with these parameters."""
        if sampling.ignore_eos:
            return frozenset(sampling.stop_token_ids)
        return self.eos_ids.union(sampling.stop_token_ids) if sampling.stop_token_ids else self.eos_ids

    def masked_ids(self, sequence: Sequence) -> frozenset[int]:
        """Ids that must not be sampled next, because `min_new_tokens` is not reached."""
        if sequence.num_output_tokens >= sequence.sampling.min_new_tokens:
            return frozenset()
        return self.stopping_ids(sequence.sampling)

    def finish_of(self, sequence: Sequence) -> Finish | None:
        """The finish that the last token causes, if any. A stop goes before a length."""
        num_outputs = sequence.num_output_tokens
        if num_outputs and num_outputs > sequence.sampling.min_new_tokens:
            last = sequence.token_ids[-1]
            if last in self.stopping_ids(sequence.sampling):
                return Finish("stop", matched=last)
        if num_outputs and num_outputs >= sequence.max_new_tokens:
            return LENGTH
        return LENGTH if sequence.num_tokens >= self.context_length else None

    def finish_of_given(self, sequence: Sequence) -> Finish | None:
        """The finish that the ids given on a resume already hold, if any: a stop anywhere, or the length."""
        stopping = self.stopping_ids(sequence.sampling)
        for token_id in sequence.output_ids[sequence.sampling.min_new_tokens :]:
            if token_id in stopping:
                return Finish("stop", matched=token_id)
        return self.finish_of(sequence) if sequence.num_output_tokens else None
