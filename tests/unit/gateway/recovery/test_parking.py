"""Nobody is there to send to: a request waits, and for how long."""

from gateway.inflight.generation import Cause
from gateway.inflight.recovery import TICK_S
from tests.unit.gateway.recovery.rig import Rig, fail
from tests.unit.gateway.streams import (
    WORKER,
)
from wire.messages import (
    ErrorCode,
    Stage,
)


def test_a_parked_request_waits_for_the_resume_timeout_and_no_longer(rig: Rig) -> None:
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_due()
    for _ in range(1190):
        rig.recovery.park(rig.generation, Stage.WORKER)
        rig.wait(TICK_S)
        rig.recovery.outbox.take_due()
    assert rig.ended.failed == []
    rig.clock.now += 2
    rig.recovery.park(rig.generation, Stage.WORKER)

    assert [error.message for error in rig.ended.failed] == ["No worker came back within 120 s."]


def test_without_a_worker_a_request_is_parked_however_often_its_tokenizer_looks(rig: Rig) -> None:
    key = 1
    while not rig.ended.failed:
        rig.retry(key := key + 1)
        fail(rig, ErrorCode.UNAVAILABLE)
        started = rig.clock.now
        while not (rig.ended.failed or rig.recovery.outbox.take_due()):
            rig.wait(TICK_S)
        assert rig.clock.now - started < 2.2

    assert 40 < key < 300
    assert 220 <= rig.clock.now < 221
    assert [(error.status, error.message) for error in rig.ended.failed] == [(503, "No worker came back within 120 s.")]
    assert set(rig.counted.repairs) == {Cause.UNAVAILABLE}


def test_who_failed_a_request_is_asked_again_when_there_is_nobody_else(rig: Rig) -> None:
    fail(rig, ErrorCode.INTERNAL)
    assert rig.generation.suspects == {WORKER.instance_id}
    rig.retry(2)
    fail(rig, ErrorCode.UNAVAILABLE)
    assert rig.generation.suspects == set()
    assert rig.generation.num_crashes == 1


def test_a_newcomer_wakes_the_parked(rig: Rig) -> None:
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_due()
    rig.recovery.park(rig.generation, Stage.WORKER)
    rig.generation.resume_at = rig.clock.now + 60
    member = rig.members.get(WORKER.instance_id)
    assert member is not None
    rig.recovery.joined(member)
    rig.wait(2 * TICK_S)

    assert rig.recovery.outbox.take_due() == [rig.generation]
