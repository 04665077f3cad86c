"""One of the n sequences of a request, as received so far. Decides what is new, what is a repetition, what is a gap."""

import enum
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

from wire.messages import TextFinish


class TopLogprob(NamedTuple):
    """One alternative at one position."""

    logprob: float
    token_id: int
    text: bytes


class TokenLogprob(NamedTuple):
    """The chosen token at one position, and its alternatives in order. Its id is in the choice's `token_ids`."""

    logprob: float
    text: bytes
    top: tuple[TopLogprob, ...]


class Arrival(enum.Enum):
    """What became of a row."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    GAP = "gap"


@dataclass(slots=True, eq=False)
class Choice:
    """Output ids, text and finish of one sequence. `text_len` counts code points."""

    index: int
    token_ids: "array[int]" = field(default_factory=lambda: array("I"))
    texts: list[str] = field(default_factory=list)
    text_len: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: TextFinish | None = None
    last_token_at: float = 0.0

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self.texts)

    @property
    def num_tokens(self) -> int:
        """Output tokens as the client counts them: through the one that completed a stop."""
        return self.finish.num_output_tokens if self.finish else len(self.token_ids)

    def apply(self, first_index: int, token_ids: "array[int]", text_offset: int, text: str) -> Arrival:
        """Takes a row in if it continues this choice exactly; cuts off what is already known."""
        num_known = len(self.token_ids) - first_index
        if num_known or text_offset != self.text_len:
            if num_known < 0 or text_offset > self.text_len:
                return Arrival.GAP
            token_ids = token_ids[num_known:]
            text = text[self.text_len - text_offset :]
            if not token_ids and not text:
                return Arrival.DUPLICATE
        self.token_ids.extend(token_ids)
        if text:
            self.texts.append(text)
            self.text_len += len(text)
        return Arrival.APPLIED
