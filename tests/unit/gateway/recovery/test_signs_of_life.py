"""What a holder's reports and tokens prove, and what their absence does."""

import pytest

from gateway.inflight.generation import Cause, HeldAt
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import (
    DETOKENIZER,
    TOKENIZER,
    WORKER,
    attempt_of,
    generation_of,
)
from wire.messages import (
    FinishReason,
    RequestState,
    Stage,
    TextFinish,
)


def test_waiting_has_no_deadline_while_the_holder_reports(rig: Rig) -> None:
    rig.run()
    for _ in range(1000):
        rig.wait(0.5)
        rig.report(WORKER, 1)

    assert rig.cause is None


@pytest.mark.parametrize("heartbeat_timeout_s", [2.0, 10.0])
def test_silence_for_the_heartbeat_timeout_is_a_loss(heartbeat_timeout_s: float) -> None:
    rig = Rig(heartbeat_timeout_s)
    rig.run()
    rig.wait(heartbeat_timeout_s - 0.1)
    rig.beat(Stage.WORKER)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.SILENT


def test_while_heartbeats_are_late_too_they_decide(rig: Rig) -> None:
    rig.run()
    rig.wait(5.0)
    assert rig.cause is None, "a machine that stands still has lost nothing"
    rig.members.drop(WORKER.instance_id, "no heartbeat")
    assert rig.cause is Cause.WORKER_LOST
    assert rig.generation.num_crashes == 1


def test_tokens_are_a_sign_of_life_too(rig: Rig) -> None:
    rig.run()
    for _ in range(5):
        rig.wait(1.5)
        rig.receive(1)

    assert rig.cause is None


def test_missing_once_is_an_accident_and_twice_in_a_row_a_loss(rig: Rig) -> None:
    rig.run()
    rig.report(WORKER)
    rig.report(WORKER, 1)
    rig.report(WORKER)
    assert rig.cause is None
    rig.report(WORKER)
    assert rig.cause is Cause.MISSING


def test_a_worker_that_is_done_may_forget_what_is_still_on_its_way(rig: Rig) -> None:
    rig.run()
    for _ in range(6):
        rig.receive(1)
        rig.wait(0.5)
        rig.report(WORKER)
    assert rig.cause is None
    rig.wait(0.6)
    rig.report(WORKER)
    assert rig.cause is Cause.MISSING


def test_what_is_finished_is_on_its_way_for_as_long_as_the_worker_says_so(rig: Rig) -> None:
    rig.run()
    rig.report(WORKER, 1, num_tokens=2)
    for _ in range(10):
        rig.wait(0.5)
        rig.report(WORKER, 1, num_tokens=3, state=RequestState.FINISHED)
    assert rig.cause is None
    rig.wait(0.5)
    rig.report(WORKER)
    rig.wait(0.5)
    assert rig.cause is None
    rig.report(WORKER)
    assert rig.cause is Cause.MISSING


def test_another_holders_report_says_nothing_about_it(rig: Rig) -> None:
    rig.run()
    for _ in range(3):
        rig.report(TOKENIZER)

    assert rig.cause is None


def test_staying_behind_for_a_second_is_a_loss(rig: Rig) -> None:
    rig.run()
    rig.receive(2)
    rig.report(WORKER, 1, num_tokens=3)
    rig.wait(0.9)
    rig.report(WORKER, 1, num_tokens=3)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.BEHIND
    assert rig.generation.suspects == {DETOKENIZER.instance_id}


def test_always_being_a_little_behind_is_normal(rig: Rig) -> None:
    rig.run()
    for received in range(1, 20):
        rig.report(WORKER, 1, num_tokens=received + 2)
        rig.wait(0.5)
        rig.receive(1)

    assert rig.cause is None


def with_two_choices(rig: Rig) -> None:
    """The rig's request is one of two choices, which runs."""
    rig.generation = generation_of(rig.in_flight, n=2)
    rig.attempt = attempt_of(rig.in_flight, rig.generation, 2, heard_at=rig.clock.now, worker_id=WORKER.instance_id)


def test_the_tokens_of_one_choice_do_not_hide_that_those_of_another_are_lost(rig: Rig) -> None:
    with_two_choices(rig)
    for received in range(1, 40):
        rig.receive(1)
        rig.report(WORKER, 1, 2, num_tokens=2 * received)
        rig.wait(0.1)

    assert rig.generation.next_cause is Cause.BEHIND


def test_a_choice_whose_turn_has_not_come_is_not_missed(rig: Rig) -> None:
    with_two_choices(rig)
    for received in range(1, 40):
        rig.receive(1)
        rig.report(WORKER, 1, 2, num_tokens=received + 1)
        rig.wait(0.5)

    assert rig.generation.attempt is rig.attempt


def test_a_stop_string_may_leave_the_worker_ahead(rig: Rig) -> None:
    with_two_choices(rig)
    finish = TextFinish(0, FinishReason.STOP, "END", 1, 1, 0, 0, 0, 0, 0, 0)
    rig.generation.finish(rig.generation.choices[0], finish)
    rig.report(WORKER, 1, 2, num_tokens=9)
    rig.wait(1.5)

    assert rig.generation.attempt is rig.attempt


def test_what_the_other_choices_miss_at_their_ends_is_noticed_when_the_worker_tells_no_more(rig: Rig) -> None:
    rig.generation = generation_of(rig.in_flight, n=2)
    fields = {"heard_at": rig.clock.now, "worker_id": WORKER.instance_id, "receipts": {WORKER.instance_id}}
    rig.attempt = attempt_of(rig.in_flight, rig.generation, 2, **fields)
    finish = TextFinish(0, FinishReason.STOP, "END", 1, 1, 0, 0, 0, 0, 0, 0)
    rig.generation.finish(rig.generation.choices[0], finish)
    rig.dispatch()
    rig.report(WORKER, 1, 2, num_tokens=9)
    for _ in range(2):
        rig.wait(0.5)
        rig.report(WORKER, 1)

    assert rig.cause is Cause.MISSING
    assert rig.generation.held == HeldAt(WORKER.instance_id, 2)
