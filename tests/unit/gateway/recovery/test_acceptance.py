"""A job is sent: who has to say when that they have it, and how far it has come."""

from gateway.inflight.generation import Cause, Standing
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import (
    TOKENIZER,
    WORKER,
    attempt_of,
    generation_of,
)
from wire.messages import (
    RequestState,
)


def test_a_job_must_be_accepted_within_a_second(rig: Rig) -> None:
    rig.wait(0.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_where_instances_may_stand_still_for_longer_so_may_a_job() -> None:
    rig = Rig(heartbeat_timeout_s=10.0)
    rig.wait(4.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_a_holder_that_works_through_a_long_queue_is_slow_and_not_deaf(rig: Rig) -> None:
    for key in range(100, 130):
        rig.report(TOKENIZER, key, is_receipt=True)
        rig.wait(0.5)

    assert rig.cause is None


def test_a_job_that_is_skipped_is_lost_however_many_others_are_accepted(rig: Rig) -> None:
    rig.report(TOKENIZER, 99, is_receipt=True)
    rig.wait(0.8)
    later = generation_of(rig.in_flight)
    attempt_of(rig.in_flight, later, 2, accept_by=rig.recovery.acceptance_deadline(), heard_at=rig.clock.now)
    rig.report(TOKENIZER, 2, is_receipt=True)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_after_dispatch_the_worker_has_a_second_of_its_own(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.wait(1.5)
    rig.dispatch()
    rig.wait(0.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_a_workers_receipt_may_overtake_the_dispatch(rig: Rig) -> None:
    rig.report(WORKER, 1, is_receipt=True)
    rig.dispatch()
    rig.wait(1.5)

    assert rig.cause is None


def test_how_far_a_request_has_come_is_known_from_its_holders(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.ON_THE_WAY
    rig.dispatch()
    assert rig.generation.standing is Standing.ON_THE_WAY
    rig.report(WORKER, 1, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.QUEUED
    rig.report(WORKER, 1)
    assert rig.generation.standing is Standing.RUNNING
    rig.report(WORKER, 1, state=RequestState.QUEUED)  # preempted: it has been let in all the same
    assert rig.generation.standing is Standing.RUNNING


def test_a_receipt_that_overtakes_the_dispatch_counts_from_there(rig: Rig) -> None:
    rig.report(WORKER, 1, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.ON_THE_WAY
    rig.dispatch()
    assert rig.generation.standing is Standing.QUEUED
