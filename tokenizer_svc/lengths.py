"""Prompt and output against the context length; the messages are those that SGLang's clients look for."""

from dataclasses import dataclass

import msgspec

from tokenizer_svc.errors import RequestError, invalid
from wire.columns import count_u32
from wire.messages import ErrorCode
from wire.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """`length` counts prompt and output together."""

    length: int
    allow_auto_truncate: bool = False

    def within(self, longest: int | None) -> "ContextWindow":
        """This window, or a shorter one if workers hold no more than `longest` tokens of a sequence."""
        if longest is None or longest >= self.length:
            return self
        return ContextWindow(longest, self.allow_auto_truncate)

    def fit_prompt(self, prompt_ids: bytes) -> bytes:
        """The prompt (a u32 column), which must leave room for one token; truncated at its end if that is allowed."""
        num_tokens = count_u32(prompt_ids)
        if num_tokens < self.length:
            return prompt_ids
        if self.allow_auto_truncate:
            return prompt_ids[: 4 * (self.length - 1)]
        raise _too_long(
            f"The input ({num_tokens} tokens) is longer than the model's context length ({self.length} tokens)."
        )

    def fit_output(self, num_prompt_tokens: int, sampling: SamplingParams, *, is_default: bool) -> SamplingParams:
        """The parameters with `max_new_tokens` resolved: None becomes the room that is left.

        A limit that the client did not choose itself (`is_default`) is cut to that room instead of refused.
        """
        room = self.length - num_prompt_tokens
        wanted = sampling.max_new_tokens
        if wanted is None or (wanted > room and (is_default or self.allow_auto_truncate)):
            sampling = msgspec.structs.replace(sampling, max_new_tokens=room)
        elif wanted > room:
            raise self._output_too_long(num_prompt_tokens, wanted)
        return _with_possible_minimum(sampling)

    def _output_too_long(self, num_prompt_tokens: int, wanted: int) -> RequestError:
        return _too_long(
            f"Requested token count exceeds the model's maximum context length of {self.length} tokens. "
            f"You requested a total of {num_prompt_tokens + wanted} tokens: {num_prompt_tokens} tokens from the input "
            f"messages and {wanted} tokens for the completion. Please reduce the number of tokens in the input "
            f"messages or the completion to fit within the limit."
        )


def _with_possible_minimum(sampling: SamplingParams) -> SamplingParams:
    minimum, maximum = sampling.min_new_tokens, sampling.max_new_tokens
    if maximum is not None and minimum > maximum:
        raise invalid(f"min_new_tokens must be in [0, max_new_tokens({maximum})], got {minimum}.")
    return sampling


def _too_long(message: str) -> RequestError:
    return RequestError(ErrorCode.CONTEXT_LENGTH, message)
