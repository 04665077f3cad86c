"""Which requests the engine takes at all. Pure limits, so that they can be checked in any thread."""

from collections.abc import Iterable
from dataclasses import dataclass

from gpu_worker.scheduling.sequence import GenerationRequest, as_token_ids
from wire.sampling import SamplingParams


class RequestRefusedError(Exception):
    """The engine can never serve this request; `limit` and `value` say why. Sending it again does not help."""

    def __init__(self, message: str, limit: int, value: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value


class InvalidTokenError(RequestRefusedError):
    """A token id is not in the vocabulary."""

    def __init__(self, where: str, vocab_size: int, token_id: int) -> None:
        super().__init__(
            f"{where} holds token id {token_id}, but the vocabulary has only {vocab_size} tokens.",
            vocab_size,
            token_id,
        )


class RequestTooLongError(RequestRefusedError):
    """The request needs more tokens than a sequence may hold."""

    def __init__(self, what: str, limit: int, num_prompt_tokens: int, num_new_tokens: int) -> None:
        value = num_prompt_tokens + num_new_tokens
        super().__init__(
            f"The request needs {value} tokens ({num_prompt_tokens} of the prompt and {num_new_tokens} new), "
            f"but {what} is {limit} tokens.",
            limit,
            value,
        )


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The limits of one engine: its vocabulary, its context length, the tokens that its KV pages hold."""

    vocab_size: int
    context_length: int
    num_kv_tokens: int

    def max_new_tokens(self, num_prompt_tokens: int, sampling: SamplingParams) -> int:
        """How many tokens a sequence may generate: as asked, but never beyond the context length; by default as many as
        there is room for."""
        if sampling.max_new_tokens is None:
            return max(0, min(self.context_length, self.num_kv_tokens) - num_prompt_tokens)
        return min(sampling.max_new_tokens, max(0, self.context_length - num_prompt_tokens))

    def check(self, request: GenerationRequest) -> None:
        """Raises `RequestRefusedError` for what can never be served."""
        prompt_ids = as_token_ids(request.prompt_ids)
        self._check_ids("The prompt", prompt_ids)
        self._check_ids("logit_bias", request.sampling.logit_bias)
        for sequence in request.sequences:
            self._check_ids("The output so far", as_token_ids(sequence.output_ids))
        self._check_lengths(len(prompt_ids), self.max_new_tokens(len(prompt_ids), request.sampling))

    def _check_lengths(self, num_prompt: int, num_new: int) -> None:
        if not num_prompt:
            raise RequestRefusedError("The prompt is empty; it needs at least 1 token.", 1, 0)
        if num_prompt > self.context_length:
            raise RequestTooLongError("the context length", self.context_length, num_prompt, 0)
        # The KV of the last new token is never needed.
        if num_prompt + max(0, num_new - 1) > self.num_kv_tokens:
            raise RequestTooLongError("the KV cache of this worker", self.num_kv_tokens, num_prompt, num_new)

    def _check_ids(self, where: str, ids: Iterable[int]) -> None:
        for token_id in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidTokenError(where, self.vocab_size, token_id)
