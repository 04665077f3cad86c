"""A repair that has to wait: for an instance, for an answer, or for ever, were it not for these rules."""

from gateway.inflight.generation import Cause, Generation, HeldAt
from gateway.inflight.recovery import Recovery
from gateway.inflight.strangers import ANSWER_INTERVAL_S, Strangers
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import WORKER, attempt_of, generation_of
from wire.columns import pack_u64
from wire.messages import ErrorCode, Failed, FinishReason, Released, Stage, TextFinish


def test_while_no_detokenizer_is_there_its_worker_is_not_told_to_stop(rig: Rig) -> None:
    rig.run()
    rig.members.drop("detokenizer-1", "killed")
    rig.recovery.outbox.take_aborts()
    for _ in range(40):
        if rig.recovery.outbox.take_due():
            rig.recovery.park(rig.generation, Stage.DETOKENIZER)
        rig.report(WORKER, 1)
        rig.wait(0.5)

    assert rig.recovery.outbox.take_aborts() == []
    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)


def test_nor_while_the_repair_waits_for_the_connection(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_aborts()
    for _ in range(20):
        rig.wait(0.5)
        rig.report(WORKER, 1)

    assert rig.recovery.outbox.take_aborts() == []
    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_the_worker_may_know_it_by_an_older_key_than_the_last_attempts(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.clock.now += 2.0
    rig.recovery.unreachable(2)
    rig.recovery.outbox.take_aborts()
    rig.clock.now += 2.0
    rig.report(WORKER, 1)

    assert rig.recovery.outbox.take_aborts() == []


def test_what_a_drain_hands_back_was_held_also_after_a_reattachment(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.report(WORKER, 2, is_receipt=True)
    rig.recovery.released(Released(WORKER, pack_u64([2]), "drain timeout"))

    assert rig.cause is Cause.RELEASED


def test_without_recovery_nothing_waits_for_an_instance(rig: Rig) -> None:
    rig.recovery = Recovery(
        rig.in_flight,
        rig.members,
        rig.counted,
        120.0,
        rig.ended.fail,
        rig.ended.end_attempt,
        rig.clock,
        is_enabled=False,
    )
    message = "no worker is ready"
    rig.recovery.failed(Failed(key=1, sender=WORKER, code=ErrorCode.UNAVAILABLE, message=message, is_retryable=True))

    assert [error.status for error in rig.ended.failed] == [503]


def test_expected_strangers_are_forgotten_although_none_is_ever_heard_of() -> None:
    strangers = Strangers()
    for key in range(100):
        strangers.expect(key, key * ANSWER_INTERVAL_S)

    assert len(strangers) <= 2


def test_an_abort_that_its_detokenizer_does_not_live_to_see_goes_to_nobody_else(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.members.drop("detokenizer-1", "left")

    assert rig.recovery.outbox.take_aborts() == [], "to all it would end what the worker goes on with"


def with_a_finished_choice(rig: Rig, key: int) -> Generation:
    """One of two choices has ended with ten tokens; the worker of the next attempt is given the other."""
    generation = generation_of(rig.in_flight, n=2)
    generation.choices[0].token_ids.extend(range(10))
    generation.finish(generation.choices[0], TextFinish(0, FinishReason.LENGTH, None, 1, 10, 0, 0, 0, 0, 0, 0))
    attempt_of(rig.in_flight, generation, key, heard_at=rig.clock.now, worker_id=WORKER.instance_id, is_resume=True)
    return generation


def test_tokens_of_choices_that_had_ended_before_do_not_hide_that_others_are_missing(rig: Rig) -> None:
    rig.run()
    generation = with_a_finished_choice(rig, 2)
    rig.report(WORKER, 1, 2, num_tokens=3)
    rig.receive(3)
    rig.wait(1.2)

    assert generation.attempt is None
    assert generation.next_cause is Cause.BEHIND


def test_nor_do_they_prove_after_an_outage_that_nothing_is(rig: Rig) -> None:
    rig.run()
    generation = with_a_finished_choice(rig, 2)
    rig.recovery.was_away()
    rig.report(WORKER, 1, 2, num_tokens=3)
    rig.wait(0.6)

    assert generation.next_cause is Cause.OUTAGE


def test_a_worker_that_goes_on_still_does_not_know_of_them(rig: Rig) -> None:
    rig.run()
    generation = with_a_finished_choice(rig, 2)
    rig.in_flight.end_attempt(generation)
    fields = {"heard_at": rig.clock.now, "worker_id": WORKER.instance_id, "is_reattachment": True}
    attempt_of(rig.in_flight, generation, 3, **fields)
    rig.report(WORKER, 1, 3, num_tokens=3)
    rig.receive(3)
    rig.wait(1.2)

    assert generation.next_cause is Cause.BEHIND


def test_who_was_blind_again_gives_what_it_doubts_its_time_to_prove_itself_again(rig: Rig) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.clock.now += 1.0  # this process is late: the proof may wait in its socket
    rig.recovery.tick()
    assert rig.cause is None
    rig.wait(0.6)
    assert rig.cause is Cause.OUTAGE
