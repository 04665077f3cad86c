"""The sampling parameters of a request, as every stage sees them. Knows no defaults of any HTTP API.

The gateway has checked the ranges before it builds one; nobody checks them again.
"""

import msgspec


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request's sampling parameters; the names are SGLang's.

    `max_new_tokens` is None until the tokenizer, who knows the context length, has resolved it.
    `temperature` 0 means greedy. `top_k` -1 means off. `seed` is a 64-bit value, always set: the gateway draws
    one when the client gave none. `top_logprobs_num` alternatives are reported only with `return_logprob`.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    no_stop_trim: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    return_logprob: bool = False
    top_logprobs_num: int = 0
