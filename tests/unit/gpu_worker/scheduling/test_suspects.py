"""Whoever may have crashed a worker prefills alone, and holds nobody up but for every other step."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.gpu_worker.builders import Rig, make_rig, request, run_to_end

PROMPT = (1, 2, 3, 4, 5, 6)


def batch_ids(rig: Rig) -> list[set[int]]:
    return [{sequence_id for sequence_id, _ in batch} for batch in rig.runner.batches]


def test_a_suspect_prefills_alone_and_then_runs_with_the_others() -> None:
    rig = make_rig()
    before = rig.add(*PROMPT, max_new_tokens=9, ignore_eos=True)
    rig.engine.step()
    suspect = rig.add(1, 2, is_suspect=True, ignore_eos=True)
    after = rig.add(3, 4, ignore_eos=True)
    for _ in range(3):
        rig.engine.step()
    everybody = {before.sequence_id, suspect.sequence_id, after.sequence_id}
    assert batch_ids(rig)[1:3] == [{suspect.sequence_id}, everybody]
    assert not suspect.is_suspect


def test_the_first_tokens_of_a_suspect_that_had_some_are_computed_alone_too() -> None:
    rig = make_rig()
    running = rig.add(1, max_new_tokens=20, ignore_eos=True)
    rig.engine.step()
    suspect = rig.add(1, 2, is_suspect=True, output_ids=(3, 4), num_tokens_alone=3, max_new_tokens=20, ignore_eos=True)
    for _ in range(6):
        rig.engine.step()
    alone = [{suspect.sequence_id}, {running.sequence_id}]
    assert batch_ids(rig)[1:7] == [*alone, *alone, {suspect.sequence_id}, {running.sequence_id, suspect.sequence_id}]
    assert suspect.num_output_tokens == 2 + 4


@pytest.mark.parametrize("overlaps", [False, True])
def test_who_comes_while_a_suspect_decodes_alone_is_not_put_beside_it(*, overlaps: bool) -> None:
    rig = make_rig(overlaps=overlaps)
    suspect = rig.add(1, 2, is_suspect=True, num_tokens_alone=5, max_new_tokens=9, ignore_eos=True)
    rig.engine.step()
    rig.engine.step()
    rig.add(3, 4, max_new_tokens=9, ignore_eos=True)
    run_to_end(rig.engine)
    assert batch_ids(rig).count({suspect.sequence_id}) == 5
    assert sum(len(batch) == 2 for batch in batch_ids(rig)) == 4


def test_the_chunks_of_a_suspect_take_turns_with_the_steps_of_the_others() -> None:
    rig = make_rig(max_prefill_tokens=2)
    running = rig.add(1, max_new_tokens=20, ignore_eos=True)
    rig.engine.step()
    suspect = rig.add(*PROMPT, is_suspect=True)
    for _ in range(6):
        rig.engine.step()
    assert batch_ids(rig)[1:6] == [{suspect.sequence_id}, {running.sequence_id}] * 2 + [{suspect.sequence_id}]


def test_the_chunks_of_a_suspect_follow_each_other_when_nobody_else_is_there() -> None:
    rig = make_rig(max_prefill_tokens=2)
    suspect = rig.add(*PROMPT, is_suspect=True, max_new_tokens=1)
    run_to_end(rig.engine)
    assert batch_ids(rig) == [{suspect.sequence_id}] * 3


def test_nobody_overtakes_a_suspect() -> None:
    rig = make_rig(max_running_requests=1)
    running = rig.add(1, max_new_tokens=2, ignore_eos=True)
    rig.engine.step()
    suspect = rig.add(2, is_suspect=True, max_new_tokens=1)
    later = rig.add(3, max_new_tokens=1)
    run_to_end(rig.engine)
    order = list(dict.fromkeys(itertools.chain.from_iterable(batch_ids(rig))))
    assert order == [running.sequence_id, suspect.sequence_id, later.sequence_id]


def test_an_aborted_suspect_makes_way_for_the_next() -> None:
    rig = make_rig(max_prefill_tokens=2)
    first, second = (rig.add(*PROMPT, is_suspect=True, max_new_tokens=1) for _ in range(2))
    rig.engine.step()
    rig.engine.abort(first.key)
    run_to_end(rig.engine)
    assert batch_ids(rig)[1:] == [{second.sequence_id}] * 3


def test_the_choices_of_a_suspect_prefill_one_after_another() -> None:
    rig = make_rig(page_size=2)
    choices = rig.engine.add(request(PROMPT, n=3, is_suspect=True, max_new_tokens=1))
    run_to_end(rig.engine)
    assert batch_ids(rig) == [{choice.sequence_id} for choice in choices]


def test_beside_a_suspect_no_step_is_under_way() -> None:
    rig = make_rig(overlaps=True)
    running = rig.add(1, max_new_tokens=20, ignore_eos=True)
    for _ in range(4):
        rig.engine.step()
    suspect = rig.add(*PROMPT, is_suspect=True, ignore_eos=True)
    rig.engine.step()  # only what was under way
    launched = len(rig.runner.batches)
    rig.runner.rule = lambda sequence: 1 // (sequence.sequence_id != suspect.sequence_id)
    with pytest.raises(ZeroDivisionError) as failure:
        rig.engine.step()
    assert batch_ids(rig)[launched:] == [{suspect.sequence_id}]
    assert rig.engine.fail_step(failure.value).sequences == [suspect]
    run_to_end(rig.engine)
    assert running.num_output_tokens == 20


def test_a_suspect_that_wants_no_token_is_not_starved_by_a_run() -> None:
    rig = make_rig(max_prefill_tokens=2, overlaps=True)
    rig.add(1, max_new_tokens=100, ignore_eos=True)
    for _ in range(4):
        rig.engine.step()
    suspect = rig.add(*PROMPT, is_suspect=True, max_new_tokens=0)
    for _ in range(10):
        rig.engine.step()
    assert suspect.finish is not None


@settings(max_examples=200, deadline=None)
@given(
    num_suspects=st.integers(1, 12),
    num_tokens=st.integers(1, 30),
    max_prefill_tokens=st.integers(1, 8),
    places=st.integers(0, 11),
)
def test_who_runs_gets_at_least_every_other_step_however_many_suspects_come(
    num_suspects: int, num_tokens: int, max_prefill_tokens: int, places: int
) -> None:
    rig = make_rig(max_prefill_tokens=max_prefill_tokens, max_running_requests=16)
    running = rig.add(1, max_new_tokens=num_tokens, ignore_eos=True)
    rig.engine.step()
    for number in range(num_suspects):
        rig.add(*PROMPT[: 1 + number % 6], is_suspect=number != places, max_new_tokens=2)
    run_to_end(rig.engine)
    turns = [running.sequence_id in batch for batch in batch_ids(rig)]
    last = max(index for index, has_turn in enumerate(turns) if has_turn)
    assert all(one or other for one, other in itertools.pairwise(turns[: last + 1]))
    assert sum(turns) == num_tokens
