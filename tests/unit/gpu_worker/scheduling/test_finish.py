"""When a sequence is finished, judged by the last token or by the ids of a resume."""

import pytest

from gpu_worker.scheduling.finish import finish_of, finish_of_given, masked_ids
from gpu_worker.scheduling.sequence import Finish, Sequence, new_sequences
from tests.unit.gpu_worker.builders import EOS, request


def sequence(*output_ids: int, **sampling: object) -> Sequence:
    asked = request((1, 2), output_ids=output_ids, **{"max_new_tokens": 5, **sampling})
    return new_sequences(asked, lambda _, params: params.max_new_tokens or 0, frozenset({EOS}), 0)[0]


def test_eos_stops_and_is_named() -> None:
    assert finish_of(sequence(3, EOS)) == Finish("stop", matched=EOS)


def test_ignore_eos_does() -> None:
    assert finish_of(sequence(3, EOS, ignore_eos=True)) is None


def test_a_stop_token_stops_even_when_eos_is_ignored() -> None:
    assert finish_of(sequence(4, ignore_eos=True, stop_token_ids=(4,))) == Finish("stop", matched=4)


def test_a_stop_in_the_last_allowed_token_is_a_stop() -> None:
    assert finish_of(sequence(1, 1, 1, 1, EOS)) == Finish("stop", matched=EOS)


def test_max_new_tokens_is_a_length() -> None:
    assert finish_of(sequence(1, 1, 1, 1)) is None
    assert finish_of(sequence(1, 1, 1, 1, 1)) == Finish("length")


def test_before_min_new_tokens_stops_are_masked_and_afterwards_not() -> None:
    assert masked_ids(sequence(1, min_new_tokens=2, stop_token_ids=(4,))) == {EOS, 4}
    assert masked_ids(sequence(1, 1, min_new_tokens=2)) == frozenset()
    assert masked_ids(sequence(1, min_new_tokens=2, ignore_eos=True)) == frozenset()


@pytest.mark.parametrize("given", [(), (1, 2)])
def test_an_unfinished_resume_goes_on(given: tuple[int, ...]) -> None:
    assert finish_of_given(sequence(*given)) is None


def test_a_resume_that_holds_a_stop_is_finished() -> None:
    assert finish_of_given(sequence(1, EOS)) == Finish("stop", matched=EOS)
    assert finish_of_given(sequence(1, EOS, 3)) == Finish("stop", matched=EOS)


def test_a_resume_of_full_length_is_finished() -> None:
    assert finish_of_given(sequence(1, 2, 3, 4, 5)) == Finish("length")
