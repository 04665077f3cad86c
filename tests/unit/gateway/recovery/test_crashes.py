"""Attempts that fail again and again: when the next one comes, and when there is none."""

from gateway.inflight.crashes import MIN_PROGRESS
from gateway.inflight.generation import Cause
from tests.unit.gateway.recovery.rig import Rig, fail
from tests.unit.gateway.streams import (
    TOKENIZER,
    WORKER,
    generation_of,
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


def test_one_crash_makes_a_request_suspect_only_until_it_gives_a_token(rig: Rig) -> None:
    rig.run()
    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert not rig.generation.is_suspect, "its prefill did no harm"

    rig.retry(2)
    rig.receive(MIN_PROGRESS)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect

    rig.retry(3)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert rig.generation.is_suspect

    rig.retry(4)
    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect


def crash_with(rig: Rig, key: int, num_tokens: int) -> None:
    """Its worker dies after some tokens; the next attempt has this key."""
    rig.receive(num_tokens)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    rig.retry(key)


def test_two_crashes_in_a_row_make_a_request_suspect_until_it_progresses(rig: Rig) -> None:
    crash_with(rig, 2, num_tokens=MIN_PROGRESS)
    assert not rig.generation.is_suspect
    crash_with(rig, 3, num_tokens=MIN_PROGRESS - 1)
    assert rig.generation.is_suspect

    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert rig.generation.is_suspect, "one token proves little now"

    rig.retry(4)
    rig.receive(MIN_PROGRESS)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect


def test_a_token_after_each_prefill_is_no_progress(rig: Rig) -> None:
    for key in (2, 3, 4):
        crash_with(rig, key, num_tokens=1)

    assert [error.message for error in rig.ended.failed] == [
        "The request was tried 3 times, and 3 times in a row its step or its worker crashed before it had "
        "given 4 tokens; the last attempt ended with: worker_lost."
    ]


def test_progress_forgives_crashes(rig: Rig) -> None:
    for key in range(2, 12):
        crash_with(rig, key, num_tokens=MIN_PROGRESS)

    assert rig.ended.failed == []
    assert rig.generation.num_crashes == 1


def test_of_several_choices_each_has_to_progress(rig: Rig) -> None:
    rig.in_flight.remove(rig.generation)
    rig.generation = generation_of(rig.in_flight, n=MIN_PROGRESS)
    rig.retry(1)
    for key in (2, 3, 4):
        crash_with(rig, key, num_tokens=2 * MIN_PROGRESS)

    assert [error.status for error in rig.ended.failed] == [500]


def test_draining_is_no_crash(rig: Rig) -> None:
    for key in range(2, 12):
        fail(rig, ErrorCode.DRAINING)
        rig.retry(key)

    assert rig.ended.failed == []
