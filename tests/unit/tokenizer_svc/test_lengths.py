"""Prompt and output against the context length."""

import pytest

from tokenizer_svc.errors import RequestError
from tokenizer_svc.lengths import ContextWindow
from wire.columns import pack_u32, unpack_u32
from wire.messages import ErrorCode
from wire.sampling import SamplingParams

WINDOW = ContextWindow(10)
TRUNCATING = ContextWindow(10, allow_auto_truncate=True)


def prompt(num_tokens: int) -> bytes:
    return pack_u32(range(num_tokens))


def fit(window: ContextWindow, num_prompt_tokens: int, limit: int | None, *, is_default: bool = False) -> int | None:
    sampling = SamplingParams(max_new_tokens=limit)
    return window.fit_output(num_prompt_tokens, sampling, is_default=is_default).max_new_tokens


def test_a_prompt_that_leaves_room_for_one_token_fits() -> None:
    assert WINDOW.fit_prompt(prompt(9)) == prompt(9)


@pytest.mark.parametrize("num_tokens", [10, 11])
def test_a_prompt_as_long_as_the_context_is_refused(num_tokens: int) -> None:
    with pytest.raises(RequestError) as caught:
        WINDOW.fit_prompt(prompt(num_tokens))
    assert caught.value.code is ErrorCode.CONTEXT_LENGTH
    expected = f"The input ({num_tokens} tokens) is longer than the model's context length (10 tokens)."
    assert caught.value.message == expected


def test_auto_truncate_keeps_the_beginning_and_room_for_one_token() -> None:
    assert unpack_u32(TRUNCATING.fit_prompt(prompt(30))).tolist() == list(range(9))


def test_no_limit_means_the_rest_of_the_context() -> None:
    assert fit(WINDOW, 3, None) == 7


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_a_limit_within_the_context_stays(limit: int) -> None:
    assert fit(WINDOW, 3, limit) == limit


def test_a_limit_beyond_the_context_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        fit(WINDOW, 3, 8)
    assert caught.value.code is ErrorCode.CONTEXT_LENGTH
    assert caught.value.message.startswith(
        "Requested token count exceeds the model's maximum context length of 10 tokens. You requested a total of "
        "11 tokens: 3 tokens from the input messages and 8 tokens for the completion. Please reduce "
    )


def test_a_limit_that_the_client_did_not_choose_is_cut() -> None:
    assert fit(WINDOW, 3, 128, is_default=True) == 7


def test_auto_truncate_cuts_the_limit() -> None:
    assert fit(TRUNCATING, 3, 128) == 7


def test_a_minimum_above_the_resolved_maximum_is_refused() -> None:
    with pytest.raises(RequestError, match=r"min_new_tokens must be in \[0, max_new_tokens\(7\)\], got 8\."):
        WINDOW.fit_output(3, SamplingParams(max_new_tokens=None, min_new_tokens=8), is_default=False)
