"""What a tokenizer must offer so that ids become text: two Protocols, each with two implementations.

Text is the tokenizer's own full decode. `clean_up_tokenization_spaces` of a tokenizer_config.json is not applied: it
removes spaces before punctuation that the model did write, and what is sent already cannot be taken back.
"""

from collections.abc import Sequence
from typing import Protocol


class TextDecoder(Protocol):
    """The text of one sequence, token by token; what it has given is never taken back."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete, or for an unknown id."""

    def flush(self) -> str:
        """What is still held at the end: an incomplete character, as replacement characters."""


class Vocabulary(Protocol):
    """One tokenizer, shared by every stream."""

    @property
    def size(self) -> int:
        """One more than the largest id."""

    def decoder(
        self, *, skip_special_tokens: bool, spaces_between_special_tokens: bool, prompt_tail: Sequence[int]
    ) -> TextDecoder:
        """A decoder at the start of an output; `prompt_tail` holds the last ids before it."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, special tokens by their content; empty for an unknown id."""
