"""Who shares a queue with a request that makes workers crash is not blamed for it."""

import pytest

from gateway.inflight.generation import Cause, Standing
from tests.unit.gateway.recovery.rig import Rig, fail
from tests.unit.gateway.streams import WORKER
from wire.messages import ErrorCode, RequestState, Stage

DEATHS = [Cause.WORKER_LOST, Cause.WORKER_HUNG]


@pytest.fixture
def rig() -> Rig:
    """A suspect at a worker that has accepted it: one that had it has crashed before."""
    rig = Rig()
    rig.run()
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert rig.generation.is_suspect
    rig.retry(2)
    rig.report(WORKER, 2, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.QUEUED
    return rig


@pytest.mark.parametrize("cause", DEATHS)
def test_a_suspect_that_waited_for_its_turn_has_done_no_harm(rig: Rig, cause: Cause) -> None:
    for key in range(3, 8):
        rig.recovery.repair(rig.generation, cause)
        rig.retry(key)
        rig.report(WORKER, key, is_receipt=True, state=RequestState.QUEUED)

    assert rig.generation.num_crashes == 1
    assert rig.generation.is_suspect, "nothing is known that speaks for it either"
    assert rig.ended.failed == []


@pytest.mark.parametrize("cause", DEATHS)
def test_one_whose_turn_had_come_may_have(rig: Rig, cause: Cause) -> None:
    for key in (3, 4):
        rig.report(WORKER, key - 1, is_receipt=True)
        rig.recovery.repair(rig.generation, cause)
        rig.retry(key)

    assert [error.status for error in rig.ended.failed] == [500]


def test_one_whose_step_failed_was_in_it(rig: Rig) -> None:
    fail(rig, ErrorCode.INTERNAL)

    assert rig.generation.num_crashes == 2


def test_one_that_is_on_its_way_to_a_worker_that_dies_has_done_no_harm(rig: Rig) -> None:
    rig.retry(3, accept_by=rig.recovery.acceptance_deadline())
    rig.wait(1.2)

    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.num_crashes == 1


def test_what_never_gets_anywhere_ends_all_the_same(rig: Rig) -> None:
    for key in range(3, 19):
        rig.beat(Stage.WORKER)
        rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
        rig.retry(key)

    assert [error.status for error in rig.ended.failed] == [500]
