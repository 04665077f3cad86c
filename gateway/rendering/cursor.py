"""How far a stream has told its client about one choice."""

from dataclasses import dataclass

from gateway.inflight.choice import Choice, TokenLogprob
from gateway.inflight.generation import Call, Generation


@dataclass(slots=True, eq=False)
class Cursor:
    """A choice of a call, its index in the answer (prompt by prompt), and what of it has been sent."""

    index: int
    generation: Generation
    choice: Choice
    num_texts: int = 0
    num_tokens: int = 0
    num_logprobs: int = 0
    is_open: bool = False
    has_ended: bool = False

    def is_due(self, interval: int) -> bool:
        """Whether there is enough for an event: the first token, `interval` more, or the end."""
        if self.choice.finish is not None:
            return not self.has_ended
        num_new = len(self.choice.token_ids) - self.num_tokens
        return num_new >= interval or (num_new > 0 and self.num_tokens == 0)

    @property
    def num_told(self) -> int:
        """Output tokens that the client has been told of, as it counts them."""
        return self.choice.num_tokens if self.has_ended else self.num_tokens

    def take_text(self) -> str:
        """The text since the last time."""
        texts = self.choice.texts
        first, self.num_texts = self.num_texts, len(texts)
        self.num_tokens = len(self.choice.token_ids)
        if self.num_texts - first == 1:
            return texts[first]
        return "".join(texts[first:])

    def take_logprobs(self) -> list[TokenLogprob]:
        """The logprobs since the last time."""
        first, self.num_logprobs = self.num_logprobs, len(self.choice.logprobs)
        return self.choice.logprobs[first:]


def cursors_of(call: Call) -> list[Cursor]:
    """One per choice, prompt by prompt."""
    pairs = ((generation, choice) for generation in call.generations for choice in generation.choices)
    return [Cursor(index, generation, choice) for index, (generation, choice) in enumerate(pairs)]
