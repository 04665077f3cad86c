"""With overlap a step is launched before the tokens of the one before it are known, and steady decodes are repeated."""

from gpu_worker.scheduling.sequence import Finish, Sequence
from tests.unit.gpu_worker.builders import EOS, Collector, Rig, make_rig, next_token, run_to_end


def one(_: Sequence) -> int:
    return 1


def repeats(rig: Rig) -> list[bool]:
    """For each batch from now on whether it repeats the one before, until the engine is through."""
    found = []
    launch = rig.runner.launch
    rig.runner.launch = lambda batch: (found.append(batch.run is not None), launch(batch))[1]  # type: ignore[method-assign]
    run_to_end(rig.engine)
    return found


def test_a_token_is_reported_when_the_next_step_is_under_way() -> None:
    rig = make_rig(rule=one, overlaps=True)
    sequence = rig.add(1, 2, max_new_tokens=3)
    assert rig.engine.step().token_ids == []
    assert rig.engine.step().token_ids == [1]
    assert len(rig.runner.batches) == 2
    run_to_end(rig.engine)
    assert sequence.finish == Finish("length")


def test_no_step_is_wasted_on_who_is_known_to_end() -> None:
    rig = make_rig(rule=one, overlaps=True)
    rig.add(1, 2, max_new_tokens=3)
    run_to_end(rig.engine)
    assert len(rig.runner.batches) == 3


def test_a_stop_costs_one_more_step_whose_token_is_dropped() -> None:
    rig = make_rig(rule=lambda s: EOS if s.num_output_tokens == 2 else 1, overlaps=True)
    sequence = rig.add(1, max_new_tokens=50)
    outcome = run_to_end(rig.engine).of(sequence)
    assert (outcome.token_ids, outcome.finish) == ([1, 1, EOS], Finish("stop", matched=EOS))
    assert len(rig.runner.batches) == 4
    assert rig.pool.num_used == 0


def test_steady_decodes_are_one_run() -> None:
    rig = make_rig(rule=one, overlaps=True)
    for token in (1, 2, 3):
        rig.add(token, max_new_tokens=20, ignore_eos=True)
    assert repeats(rig) == [False, False, *[True] * 18]


def test_an_arrival_ends_the_run_and_the_next_begins_with_it() -> None:
    rig = make_rig(rule=one, overlaps=True)
    first = rig.add(1, max_new_tokens=12, ignore_eos=True)
    collector = Collector()
    for _ in range(5):
        collector.take(rig.engine.step())
    second = rig.add(2, max_new_tokens=12, ignore_eos=True)
    assert repeats(rig) == [False, False, *[True] * 5, False, *[True] * 4]
    assert (first.num_output_tokens, second.num_output_tokens) == (12, 12)


def test_an_abort_in_a_run_ends_only_its_own() -> None:
    rig = make_rig(rule=next_token, overlaps=True)
    kept, aborted = (rig.add(token, max_new_tokens=20, ignore_eos=True) for token in (1, 2))
    collector = Collector()
    for _ in range(6):
        collector.take(rig.engine.step())
    rig.engine.abort(aborted.key)
    while rig.engine.has_work:
        collector.take(rig.engine.step())
    assert collector.of(aborted).finish == Finish("abort")
    alone = make_rig(rule=next_token)
    undisturbed = alone.add(1, max_new_tokens=20, ignore_eos=True)
    assert collector.of(kept).token_ids == run_to_end(alone.engine).of(undisturbed).token_ids


def test_a_failure_ends_everybody_who_was_under_way() -> None:
    rig = make_rig(rule=one, overlaps=True)
    first, second = rig.add(1, max_new_tokens=9), rig.add(2, max_new_tokens=9)
    for _ in range(4):
        rig.engine.step()
    result = rig.engine.fail_step(ArithmeticError("lost"))
    assert set(result.sequences) == {first, second}
    assert not rig.engine.has_work
    assert rig.pool.num_used == 0
    later = rig.add(3, max_new_tokens=2)
    assert run_to_end(rig.engine).of(later).token_ids == [1, 1]
