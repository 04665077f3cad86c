"""Exactness: whatever order, repetition or loss, a choice is always a true prefix of what was generated."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.inflight.arrivals import Arrivals
from gateway.inflight.choice import Arrival, Choice
from gateway.inflight.generation import Generation
from gateway.inflight.in_flight import InFlight
from tests.unit.gateway.streams import Counted, Row, StillClock, attempt_of, batch_of, generation_of
from wire.columns import pack_f32, pack_u32
from wire.messages import FinishReason, LogprobTexts, StreamStart, TextFinish

LENGTH = 12
TEXTS = ["a", "", "", "déf", "g", "", "hi", "j", "", "", "kl", "m"]  # the text of held-back tokens comes later
OFFSETS = [sum(len(text) for text in TEXTS[:index]) for index in range(LENGTH + 1)]


def row_of(first: int, count: int) -> tuple[int, "array[int]", int, str]:
    """Tokens first .. first + count of the one true output."""
    return first, array("I", range(first, first + count)), OFFSETS[first], "".join(TEXTS[first : first + count])


@given(st.lists(st.tuples(st.integers(0, LENGTH - 1), st.integers(0, 4)), max_size=60))
def test_any_sequence_of_rows_leaves_a_prefix_of_the_truth(rows: list[tuple[int, int]]) -> None:
    choice = Choice(0)
    for first, count in rows:
        before = len(choice.token_ids)
        arrival = choice.apply(*row_of(first, min(count, LENGTH - first)))
        assert (arrival is Arrival.GAP) == (first > before)
        assert choice.token_ids.tolist() == list(range(len(choice.token_ids)))
        assert choice.text == "".join(TEXTS[: len(choice.token_ids)])
        assert choice.text_len == len(choice.text)


def test_a_row_that_overlaps_brings_only_its_new_part() -> None:
    choice = Choice(0)
    choice.apply(*row_of(0, 5))

    assert choice.apply(*row_of(3, 6)) is Arrival.APPLIED
    assert choice.token_ids.tolist() == list(range(9))
    assert choice.apply(*row_of(2, 4)) is Arrival.DUPLICATE


def test_text_that_skips_something_is_a_gap_even_if_the_ids_fit() -> None:
    choice = Choice(0)

    assert choice.apply(0, array("I", [0]), 1, "b") is Arrival.GAP
    assert not choice.token_ids


def test_held_back_text_may_come_after_its_ids() -> None:
    choice = Choice(0)
    choice.apply(0, array("I", [1, 2]), 0, "")

    assert choice.apply(2, array("I"), 0, "ab") is Arrival.APPLIED
    assert choice.text == "ab"


class Rig:
    """Arrivals over two generations with the keys 1 and 2."""

    def __init__(self) -> None:
        self.in_flight = InFlight()
        self.counted = Counted()
        self.clock = StillClock()
        self.gaps: list[Generation] = []
        self.done: list[Generation] = []
        self.arrivals = Arrivals(self.in_flight, self.counted, self.gaps.append, self.done.append, self.clock)
        self.first, self.second = generation_of(self.in_flight), generation_of(self.in_flight, n=2)
        attempt_of(self.in_flight, self.first, 1)
        attempt_of(self.in_flight, self.second, 2)


@pytest.fixture
def rig() -> Rig:
    """A rig with nothing received."""
    return Rig()


def finish(row: int, num_tokens: int) -> TextFinish:
    """An end by length."""
    return TextFinish(row, FinishReason.LENGTH, None, 9, num_tokens, 4, 0, 0, 0, 0, 0)


def test_rows_go_to_their_choices(rig: Rig) -> None:
    rig.arrivals.apply(
        batch_of(Row(1, 0, 0, [5, 6], "ab"), Row(2, 1, 0, [7], "c"), Row(2, 0, 0, [], ""), Row(1, 0, 2, [8], "d", 2))
    )

    assert rig.first.choices[0].token_ids.tolist() == [5, 6, 8]
    assert rig.first.choices[0].text == "abd"
    assert rig.second.choices[1].text == "c"


def test_unknown_keys_and_choices_are_counted_and_harm_no_other_row(rig: Rig) -> None:
    rig.arrivals.apply(batch_of(Row(9, 0, 0, [1, 2], "xx"), Row(1, 5, 0, [3], "x"), Row(1, 0, 0, [4], "y")))

    assert rig.counted.stale == 2
    assert rig.first.choices[0].text == "y"


def test_a_batch_whose_columns_do_not_fit_is_dropped_whole(rig: Rig) -> None:
    batch = batch_of(Row(1, 0, 0, [1], "a"))
    for broken in ({"choices": b""}, {"texts": []}, {"counts": pack_u32([1, 1])}):
        fields = {name: getattr(batch, name) for name in batch.__struct_fields__} | broken
        rig.arrivals.apply(type(batch)(**fields))

    assert rig.counted.malformed == 3
    assert not rig.first.choices[0].token_ids


def test_a_gap_is_told_and_nothing_of_the_row_is_kept(rig: Rig) -> None:
    rig.arrivals.apply(batch_of(Row(1, 0, 1, [1], "a", 1), finishes=(finish(0, 2),)))

    assert rig.gaps == [rig.first]
    assert rig.first.choices[0].finish is None


def test_a_generation_is_done_with_its_last_choice(rig: Rig) -> None:
    rig.arrivals.apply(batch_of(Row(2, 0, 0, [1], "a"), finishes=(finish(0, 1),)))
    assert rig.done == []
    rig.arrivals.apply(batch_of(Row(2, 1, 0, [], ""), finishes=(finish(0, 0),)))

    assert rig.done == [rig.second]
    assert rig.second.call.is_done


def test_a_finish_may_ride_on_a_repetition(rig: Rig) -> None:
    rig.arrivals.apply(batch_of(Row(1, 0, 0, [1], "a")))
    rig.arrivals.apply(batch_of(Row(1, 0, 0, [1], "a"), finishes=(finish(0, 1),)))

    assert rig.done == [rig.first]


def test_cached_tokens_are_those_of_the_first_attempt_that_delivered(rig: Rig) -> None:
    rig.arrivals.apply(batch_of(Row(1, 0, 0, [1], "a"), starts=(StreamStart(0, 9, 3),)))
    attempt_of(rig.in_flight, rig.first, 3)
    rig.arrivals.apply(batch_of(Row(3, 0, 1, [1], "b", 1), starts=(StreamStart(0, 9, 8),), finishes=(finish(0, 2),)))

    assert rig.first.cached_tokens == 3
    assert rig.first.num_prompt_tokens == 9


def test_logprobs_stay_in_step_with_the_ids(rig: Rig) -> None:
    logprobs = LogprobTexts(
        rows=pack_u32([1]),
        chosen=pack_f32([-1.0, -2.0]),
        texts=[b"b", b"c"],
        num_top=pack_u32([1]),
        top_ids=pack_u32([7, 8]),
        top=pack_f32([-0.5, -0.25]),
        top_texts=[b"x", b"y"],
    )
    rig.arrivals.apply(batch_of(Row(1, 0, 0, [5], "a")))
    rig.arrivals.apply(batch_of(Row(2, 0, 0, [1], "z"), Row(2, 1, 0, [2, 3], "bc"), logprobs=logprobs))
    rig.arrivals.apply(batch_of(Row(2, 1, 0, [2, 3], "bc"), Row(2, 1, 0, [2, 3], "bc"), logprobs=logprobs))

    tokens = rig.second.choices[1].logprobs
    assert [(token.logprob, token.text, token.top[0].token_id) for token in tokens] == [(-1, b"b", 7), (-2, b"c", 8)]


def test_the_time_between_tokens_is_observed_once_per_row(rig: Rig) -> None:
    rig.arrivals.apply(batch_of(Row(1, 0, 0, [1], "a")))
    rig.clock.now += 0.5
    rig.arrivals.apply(batch_of(Row(1, 0, 1, [2, 3], "bc", 1)))

    assert rig.counted.gaps == [(0.5, 2)]
    assert rig.first.first_token_at == 100.0
