"""Attempts that fail again and again: when the next one comes, and when there is none."""

from gateway.inflight.generation import Cause
from tests.unit.gateway.recovery.rig import Rig, fail
from tests.unit.gateway.streams import (
    TOKENIZER,
    WORKER,
)
from wire.messages import (
    ErrorCode,
    Stage,
)


def test_repeats_are_spaced_more_and_more(rig: Rig) -> None:
    delays = []
    for key in range(2, 8):
        rig.recovery.gap(rig.generation)
        started = rig.clock.now
        while not rig.recovery.outbox.take_due():
            rig.clock.now += 0.01
            rig.recovery.tick()
        delays.append(rig.clock.now - started)
        rig.retry(key)

    assert delays[0] == 0
    assert delays[-1] > 4 * delays[1]
    assert delays[-1] <= 2.1


def test_three_crashes_without_progress_are_the_end(rig: Rig) -> None:
    for key in (2, 3, 4):
        fail(rig, ErrorCode.INTERNAL)
        rig.retry(key)

    assert [error.status for error in rig.ended.failed] == [500]


def test_a_worker_that_falls_silent_with_a_job_counts_as_crashed(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    rig.wait(1.2)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.num_crashes == 1


def test_a_worker_that_beats_and_does_not_accept_has_not_crashed(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    rig.wait(0.9)
    rig.beat(Stage.WORKER)
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.num_crashes == 0


def test_a_worker_dies_once_though_it_is_asked_for_what_it_had(rig: Rig) -> None:
    rig.run()
    accept_by = rig.recovery.acceptance_deadline()
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=accept_by)
    rig.members.drop(WORKER.instance_id, "killed")
    assert rig.cause is Cause.WORKER_LOST
    assert rig.generation.num_crashes == 0


def test_only_a_crash_without_a_token_makes_a_request_suspect(rig: Rig) -> None:
    rig.run()
    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert not rig.generation.is_suspect, "its prefill did no harm"

    rig.retry(2)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect

    rig.retry(3)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert rig.generation.is_suspect

    rig.retry(4)
    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect


def test_progress_forgives_crashes(rig: Rig) -> None:
    for key in range(2, 12):
        rig.receive(1)
        fail(rig, ErrorCode.INTERNAL)
        rig.retry(key)

    assert rig.ended.failed == []
    assert rig.generation.num_crashes == 1


def test_draining_is_no_crash(rig: Rig) -> None:
    for key in range(2, 12):
        fail(rig, ErrorCode.DRAINING)
        rig.retry(key)

    assert rig.ended.failed == []
