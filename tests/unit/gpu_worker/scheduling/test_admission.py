"""What an engine refuses at once, with the limit and the value."""

import pytest

from gpu_worker.scheduling.admission import (
    AdmissionLimits,
    InvalidTokenError,
    RequestRefusedError,
    RequestTooLongError,
)
from gpu_worker.scheduling.sequence import as_token_ids
from tests.unit.gpu_worker.builders import request

LIMITS = AdmissionLimits(vocab_size=8, context_length=20, num_kv_tokens=16)


def test_what_just_fits_is_taken() -> None:
    LIMITS.check(request([1] * 10, max_new_tokens=7))


def test_a_sequence_that_alone_exceeds_the_kv_cache_is_refused_with_limit_and_value() -> None:
    with pytest.raises(RequestTooLongError, match=r"needs 18 tokens .* KV cache of this worker is 16") as refused:
        LIMITS.check(request([1] * 10, max_new_tokens=8))
    assert (refused.value.limit, refused.value.value) == (16, 18)


def test_a_prompt_beyond_the_context_length_is_refused() -> None:
    with pytest.raises(RequestTooLongError, match="context length is 20"):
        LIMITS.check(request([1] * 21, max_new_tokens=1))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestRefusedError, match="at least 1 token"):
        LIMITS.check(request([]))


def test_ids_outside_the_vocabulary_are_refused_wherever_they_are() -> None:
    for bad in (
        request([1, 8]),
        request([1], output_ids=(9,)),
        request([1], logit_bias={8: 1.0}),
        request([1], logit_bias={-1: 1.0}),
    ):
        with pytest.raises(InvalidTokenError, match="only 8 tokens"):
            LIMITS.check(bad)


def test_new_tokens_never_pass_the_context_length() -> None:
    assert LIMITS.max_new_tokens(15, request([1], max_new_tokens=9).sampling) == 5


def test_who_asks_for_no_limit_gets_what_there_is_room_for() -> None:
    asked = request([1] * 12, max_new_tokens=None)
    LIMITS.check(asked)
    assert LIMITS.max_new_tokens(12, asked.sampling) == 4
    assert LIMITS.max_new_tokens(15, request([1], max_new_tokens=3).sampling) == 3


def test_ids_come_as_numbers_or_as_little_endian_bytes() -> None:
    assert as_token_ids(b"\x01\x00\x00\x00\x00\x01\x00\x00").tolist() == [1, 256]
    assert as_token_ids((1, 256)).tolist() == [1, 256]
