"""A repair that has to wait: for an instance, for an answer, or for ever, were it not for these rules."""

import pytest

from gateway.inflight.generation import Cause, HeldAt
from gateway.inflight.recovery import Recovery
from gateway.inflight.strangers import ANSWER_INTERVAL_S, Strangers
from tests.unit.gateway.streams import WORKER
from tests.unit.gateway.test_recovery import Rig
from wire.columns import pack_u64
from wire.messages import ErrorCode, Failed, Released, Stage


@pytest.fixture
def rig() -> Rig:
    """A rig at its beginning: sent, not yet accepted."""
    return Rig()


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
        strangers.expect((key,), key * ANSWER_INTERVAL_S)

    assert len(strangers) <= 2
