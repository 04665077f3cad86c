"""The scheduler by examples: order, budget, sharing, preemption, the end. No model: see `ArithmeticRunner`."""

import pytest

from gpu_worker.scheduling.sequence import Finish, Sequence, SequenceState
from tests.unit.gpu_worker.builders import EOS, make_rig, next_token, request, run_to_end


def one(_: Sequence) -> int:
    return 1


def test_a_request_runs_to_its_length() -> None:
    rig = make_rig(rule=one)
    sequence = rig.add(1, 2, 3)
    outcome = run_to_end(rig.engine).of(sequence)
    assert outcome.token_ids == [1, 1, 1, 1]
    assert outcome.finish == Finish("length")
    assert sequence.state is SequenceState.FINISHED


def test_a_finished_sequence_returns_its_pages() -> None:
    rig = make_rig(rule=one)
    rig.add(1, 2, 3)
    run_to_end(rig.engine)
    assert rig.pool.num_used == 0


def test_eos_ends_a_request_early() -> None:
    rig = make_rig(rule=lambda s: EOS if s.num_output_tokens == 1 else 1)
    sequence = rig.add(1, max_new_tokens=50)
    outcome = run_to_end(rig.engine).of(sequence)
    assert outcome.token_ids == [1, EOS]
    assert outcome.finish == Finish("stop", matched=EOS)


def test_the_context_length_ends_a_request() -> None:
    rig = make_rig(rule=one, context_length=9)
    sequence = rig.add(1, 2, 3, max_new_tokens=50)
    outcome = run_to_end(rig.engine).of(sequence)
    assert (len(outcome.token_ids), outcome.finish) == (6, Finish("length"))


def test_a_long_prompt_goes_in_chunks_while_decodes_go_on() -> None:
    rig = make_rig(rule=one, max_prefill_tokens=4)
    short = rig.add(1, 2, max_new_tokens=10)
    rig.engine.step()
    long = rig.add(*[3] * 10, max_new_tokens=1)
    for _ in range(3):
        rig.engine.step()
    assert rig.runner.batches[1:] == [
        [(short.sequence_id, 1), (long.sequence_id, 4)],
        [(short.sequence_id, 1), (long.sequence_id, 4)],
        [(short.sequence_id, 1), (long.sequence_id, 2)],
    ]
    assert long.finish == Finish("length")


def test_no_more_run_than_allowed_and_the_first_come_first() -> None:
    rig = make_rig(rule=one, max_running_requests=2)
    sequences = [rig.add(token) for token in (1, 2, 3)]
    rig.engine.step()
    assert rig.engine.running() == sequences[:2]
    assert rig.engine.waiting() == sequences[2:]


def test_a_resumed_request_goes_before_new_ones() -> None:
    rig = make_rig(rule=one, max_running_requests=1)
    rig.add(1)
    resumed = rig.add(2, output_ids=(3,))
    rig.engine.step()
    assert rig.engine.running() == [resumed]


def test_cached_tokens_are_exact_and_at_least_one_prompt_token_is_computed() -> None:
    rig = make_rig(rule=one)
    first = rig.add(*range(1, 7), 1, 2)
    run_to_end(rig.engine)
    same, longer, other = (
        rig.add(*range(1, 7), 1, 2),
        rig.add(*range(1, 7), 1, 2, 1, 1, 5),
        rig.add(*range(1, 6), 1),
    )
    run_to_end(rig.engine)
    # 8 tokens are two pages; of the equal prompt the second page must be computed again for its logits. The first
    # answer, 1 1 1, is cached with the prompt as far as it fills pages: its third page is 1 1 1 and one uncomputed.
    assert [s.num_cached_tokens for s in (first, same, longer, other)] == [0, 4, 8, 4]


def test_without_a_prefix_cache_nothing_is_cached() -> None:
    rig = make_rig(rule=one, has_prefix_cache=False)
    for _ in range(2):
        sequence = rig.add(*[1] * 12)
        run_to_end(rig.engine)
        assert sequence.num_cached_tokens == 0


def test_choices_of_one_prompt_wait_for_the_first_and_share_its_pages() -> None:
    rig = make_rig(rule=one, max_prefill_tokens=8)
    sequences = rig.engine.add(request([1] * 13, n=3))
    for _ in range(3):
        rig.engine.step()
    assert [s.num_cached_tokens for s in sequences] == [0, 12, 12]
    # Three shared pages, and one for each choice.
    assert rig.pool.num_used == 6


def test_short_prompts_do_not_wait_for_each_other() -> None:
    rig = make_rig(rule=one)
    rig.engine.add(request([1, 2], n=3))
    assert len(rig.engine.step().sequences) == 3


def test_max_new_tokens_zero_caches_the_prompt_and_gives_no_token() -> None:
    rig = make_rig(rule=one)
    sequence = rig.add(*[1] * 8, max_new_tokens=0)
    outcome = run_to_end(rig.engine).of(sequence)
    assert outcome.token_ids == []
    assert outcome.finish == Finish("length")
    assert rig.pool.num_cached == 2


def test_a_resumed_sequence_goes_on_where_it_was() -> None:
    rig = make_rig(rule=next_token)
    whole = rig.add(1, 2, 3, max_new_tokens=12, ignore_eos=True)
    expected = run_to_end(rig.engine).of(whole).token_ids
    resumed = rig.add(1, 2, 3, output_ids=tuple(expected[:5]), max_new_tokens=12, ignore_eos=True)
    outcome = run_to_end(rig.engine).of(resumed)
    assert outcome.token_ids == expected[5:]
    assert outcome.finish == Finish("length")


def test_a_resumed_sequence_that_is_finished_says_so_without_a_step() -> None:
    rig = make_rig()
    sequence = rig.add(1, 2, 3, output_ids=(4, EOS))
    outcome = run_to_end(rig.engine).of(sequence)
    assert (outcome.token_ids, outcome.finish) == ([], Finish("stop", matched=EOS))
    assert rig.runner.batches == []


def test_when_pages_run_out_the_latest_is_preempted_and_nothing_is_lost() -> None:
    def outcomes(num_pages: int) -> tuple[list[list[int]], int]:
        rig = make_rig(num_pages=num_pages, rule=next_token)
        sequences = [rig.add(*[token] * 8, max_new_tokens=20, ignore_eos=True) for token in (1, 2, 3)]
        collector = run_to_end(rig.engine)
        assert sequences[0].num_preemptions == 0
        assert [s.num_cached_tokens for s in sequences] == [0, 0, 0]
        return [collector.of(s).token_ids for s in sequences], sum(s.num_preemptions for s in sequences)

    roomy, none = outcomes(64)
    tight, some = outcomes(9)
    assert none == 0
    assert some > 0
    assert tight == roomy


def test_an_abort_ends_a_running_and_a_waiting_sequence_at_once() -> None:
    rig = make_rig(rule=one, max_running_requests=1)
    running, waiting = rig.add(1, key=5), rig.add(2, key=6)
    rig.engine.step()
    assert rig.engine.abort(5) == 1
    assert rig.engine.abort(6) == 1
    assert rig.engine.abort(7) == 0
    collector = run_to_end(rig.engine)
    assert collector.of(running).finish == collector.of(waiting).finish == Finish("abort")
    assert rig.pool.num_used == 0


def test_an_abort_of_one_choice_leaves_the_others() -> None:
    rig = make_rig(rule=one)
    first, second = rig.engine.add(request([1], n=2, key=5))
    rig.engine.step()
    rig.engine.abort(5, choice=1)
    run_to_end(rig.engine)
    assert (first.finish, second.finish) == (Finish("length"), Finish("abort"))


def test_a_failed_step_ends_its_own_sequences_and_no_others() -> None:
    def poisoned(sequence: Sequence) -> int:
        if sequence.token_ids[0] == 6:
            raise ArithmeticError("bad prompt")
        return 1

    rig = make_rig(rule=poisoned, max_running_requests=1)
    bad, good = rig.add(6), rig.add(1)
    with pytest.raises(ArithmeticError) as failure:
        rig.engine.step()
    result = rig.engine.fail_step(failure.value)
    assert result.sequences == [bad]
    assert result.finishes == {0: Finish("error", message="ArithmeticError: bad prompt")}
    assert run_to_end(rig.engine).of(good).finish == Finish("length")
    assert rig.pool.num_used == 0


def test_the_prefix_cache_is_flushed_only_when_nothing_runs() -> None:
    rig = make_rig(rule=one)
    rig.add(*[1] * 8)
    assert rig.engine.flush_prefix_cache() is False
    run_to_end(rig.engine)
    assert rig.engine.num_cached_pages > 0
    assert rig.engine.flush_prefix_cache() is True
    assert rig.engine.num_cached_pages == 0
    assert rig.pool.num_free == rig.engine.num_pages


def test_times_follow_each_other() -> None:
    rig = make_rig(rule=one)
    sequence = rig.add(1, 2)
    run_to_end(rig.engine)
    times = sequence.times
    assert 0 < times.arrival_ns < times.first_scheduled_ns < times.first_token_ns < times.finished_ns


def test_a_step_counts_what_it_did() -> None:
    rig = make_rig(rule=one, max_prefill_tokens=8, max_running_requests=2)
    for token in (1, 2, 3):
        rig.add(*[token] * 6)
    stats = rig.engine.step().stats
    assert (stats.num_new_sequences, stats.num_prefill_tokens, stats.num_cached_tokens) == (2, 8, 0)
    assert (stats.num_running, stats.num_waiting, stats.num_pending_tokens) == (2, 1, 4 + 6)
    assert (stats.num_used_tokens, stats.num_kv_tokens) == (16, 256)
    stats = rig.engine.step().stats
    assert (stats.num_decodes, stats.num_new_sequences, stats.num_prefill_tokens) == (1, 0, 4)
