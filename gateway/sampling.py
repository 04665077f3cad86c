"""From what a client gave to `SamplingParams`: defaults, ranges, and the messages that clients of SGLang know."""

import math
import random
from collections.abc import Mapping
from typing import Any, Protocol

from gateway.errors import bad_request
from wire.sampling import SamplingParams

MAX_CHOICES = 128
_MAX_STOPS = 32
_MAX_IDS = 4096
"""Of `logit_bias` and of `stop_token_ids`: a worker's device has as much room for all as who has most of them needs."""
_GREEDY_BELOW = 1e-6
_MAX_TOP_K = 2**30
_MAX_TOKENS = 2**31
_ID_DIGITS = 10
_MODEL_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_SEED_BITS = 53  # what every JSON reader keeps exactly, since the client is told
_LIMIT = "max_new_tokens"


class GivenSampling(Protocol):
    """The fields that every API has under the same name; None where the client left one out."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    stop: str | list[str] | None
    stop_token_ids: list[int | None] | None
    ignore_eos: bool | None
    skip_special_tokens: bool | None
    spaces_between_special_tokens: bool | None
    no_stop_trim: bool | None
    n: int | None
    logit_bias: dict[str, float] | None


def build_sampling(
    given: GivenSampling,
    *,
    max_new_tokens: int | None,
    min_new_tokens: int | None,
    seed: int | None,
    return_logprob: bool = False,
    top_logprobs_num: int = 0,
) -> SamplingParams:
    """Checked parameters; raises a 400 with limit and value. A missing seed is drawn."""
    limit = _max_new_tokens(max_new_tokens)
    temperature = _in_range("temperature", given.temperature, 1.0)
    return SamplingParams(
        max_new_tokens=limit,
        min_new_tokens=_min_new_tokens(min_new_tokens, limit),
        temperature=temperature if temperature >= _GREEDY_BELOW else 0.0,
        top_p=_in_range("top_p", given.top_p, 1.0),
        top_k=_top_k(given.top_k),
        min_p=_in_range("min_p", given.min_p, 0.0),
        frequency_penalty=_in_range("frequency_penalty", given.frequency_penalty, 0.0),
        presence_penalty=_in_range("presence_penalty", given.presence_penalty, 0.0),
        repetition_penalty=_in_range("repetition_penalty", given.repetition_penalty, 1.0),
        logit_bias=_logit_bias(given.logit_bias or {}),
        seed=_seed(seed),
        n=_num_choices(given.n),
        stop=_stops(given.stop),
        stop_token_ids=_stop_token_ids(given.stop_token_ids or []),
        ignore_eos=bool(given.ignore_eos),
        no_stop_trim=bool(given.no_stop_trim),
        skip_special_tokens=given.skip_special_tokens is not False,
        spaces_between_special_tokens=given.spaces_between_special_tokens is not False,
        return_logprob=return_logprob,
        top_logprobs_num=top_logprobs_num,
    )


def shown_seed(sampling: SamplingParams) -> int:
    """The seed as a client may send it."""
    return sampling.seed if sampling.seed < 2**63 else sampling.seed - 2**64


def left_to_model(given: GivenSampling) -> tuple[str, ...]:
    """The fields that the client left unset and the model's generation_config may set."""
    return tuple(name for name in _MODEL_FIELDS if getattr(given, name) is None)


def unchosen_limit(*, is_default: bool) -> tuple[str, ...]:
    """Marks a default of `max_new_tokens` as not the client's: it is cut to the room that is left, never refused."""
    return (_LIMIT,) if is_default else ()


def check_num_top_logprobs(name: str, value: int, limit: int) -> int:
    """The number of alternatives asked for, if the server gives as many."""
    if not 0 <= value <= limit:
        raise bad_request(f"{name} must be in [0, {limit}], got {value}.", param=name)
    return value


_RANGES: Mapping[str, tuple[Any, str]] = {
    "temperature": (lambda x: x >= 0, "must be a non-negative finite number"),
    "top_p": (lambda x: 0 < x <= 1, "must be in (0, 1]"),
    "min_p": (lambda x: 0 <= x <= 1, "must be in [0, 1]"),
    "frequency_penalty": (lambda x: -2 <= x <= 2, "must be in [-2, 2]"),
    "presence_penalty": (lambda x: -2 <= x <= 2, "must be in [-2, 2]"),
    "repetition_penalty": (lambda x: 0 < x <= 2, "must be in (0, 2] (1.0 = no penalty)"),
}


def _in_range(name: str, given: float | None, default: float) -> float:
    if given is None:
        return default
    is_valid, rule = _RANGES[name]
    if not math.isfinite(given) or not is_valid(given):
        raise bad_request(f"{name} {rule}, got {given}.", param=name)
    return given


def _max_new_tokens(given: int | None) -> int | None:
    if given is not None and not 0 <= given <= _MAX_TOKENS:
        rule = "at least 0" if given < 0 else f"at most {_MAX_TOKENS}"
        raise bad_request(f"max_new_tokens must be {rule}, got {given}.", param="max_new_tokens")
    return given


def _min_new_tokens(given: int | None, limit: int | None) -> int:
    value = given or 0
    if not 0 <= value <= (_MAX_TOKENS if limit is None else limit):
        message = f"min_new_tokens must be in [0, max_new_tokens({limit})], got {value}."
        raise bad_request(message, param="min_new_tokens")
    return value


def _top_k(given: int | None) -> int:
    if given is None:
        return -1
    if given != -1 and given < 1:
        raise bad_request(f"top_k must be -1 (disable) or at least 1, got {given}.", param="top_k")
    return -1 if given >= _MAX_TOP_K else given


def _num_choices(given: int | None) -> int:
    value = 1 if given is None else given
    if not 1 <= value <= MAX_CHOICES:
        rule = "at least 1" if value < 1 else f"at most {MAX_CHOICES}"
        raise bad_request(f"n must be {rule}, got {value}.", param="n")
    return value


def _seed(given: int | None) -> int:
    if given is None:
        return random.getrandbits(_SEED_BITS)
    if not -(2**63) <= given < 2**63:
        raise bad_request(f"sampling_seed must be in [-2**63, 2**63 - 1], got {given}.", param="sampling_seed")
    return given % 2**64


def _stops(given: str | list[str] | None) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stops) > _MAX_STOPS:
        raise bad_request(f"at most {_MAX_STOPS} stop strings are allowed, got {len(stops)}", param="stop")
    return tuple(stop for stop in stops if stop)


def _check_num_ids(param: str, num_ids: int) -> None:
    if num_ids > _MAX_IDS:
        raise bad_request(f"{param} must have at most {_MAX_IDS} ids, got {num_ids}.", param=param)


def _stop_token_ids(given: list[int | None]) -> tuple[int, ...]:
    _check_num_ids("stop_token_ids", len(given))
    ids = tuple(token_id for token_id in given if token_id is not None)
    if wrong := next((token_id for token_id in ids if not 0 <= token_id < 2**32), None):
        raise bad_request(f"stop_token_ids must be token ids, got {wrong}.", param="stop_token_ids")
    return ids


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    _check_num_ids("logit_bias", len(given))
    bias = {}
    for name, value in given.items():
        if not (name.isascii() and name.isdecimal()) or len(name) > _ID_DIGITS or int(name) >= 2**32:
            raise bad_request(f"logit_bias must has keys in [0, V-1], got {name}.", param="logit_bias")
        if not math.isfinite(value):
            raise bad_request(f"logit_bias must have finite values, got {value}.", param="logit_bias")
        bias[int(name)] = value
    return bias
