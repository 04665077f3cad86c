"""This process was away itself: it judges nobody for that time, and doubts what it missed."""

import pytest

from gateway.inflight.generation import Cause, HeldAt
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import (
    WORKER,
)
from wire.messages import (
    RequestState,
)


def test_after_an_outage_a_request_that_proves_nothing_is_repaired(rig: Rig) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.report(WORKER, 1, num_tokens=5)
    rig.wait(0.6)

    assert rig.cause is Cause.OUTAGE
    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.counted.stages == ["broker"]


@pytest.mark.parametrize("proof", ["report", "token"])
def test_after_an_outage_a_request_that_misses_nothing_is_left_alone(rig: Rig, proof: str) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.clock.now += 0.01
    if proof == "report":
        rig.report(WORKER, 1, num_tokens=3)
    else:
        rig.receive(1)
    rig.wait(0.6)

    assert rig.cause is None


def test_what_finished_during_an_outage_has_nothing_left_to_prove_it_with(rig: Rig) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.report(WORKER, 1, num_tokens=3, state=RequestState.FINISHED)
    rig.wait(0.6)

    assert rig.cause is Cause.OUTAGE


def test_a_process_that_was_stopped_for_long_doubts_everything(rig: Rig) -> None:
    rig.run()
    rig.clock.now += 5.0
    rig.recovery.tick()
    assert rig.cause is None
    rig.wait(0.6)

    assert rig.cause is Cause.OUTAGE


def test_a_blind_judge_starts_every_deadline_anew(rig: Rig) -> None:
    rig.run()
    rig.report(WORKER, 1, num_tokens=5)
    rig.clock.now += 1.5  # this process stood still: its own tick is late
    rig.recovery.tick()
    assert rig.cause is None
    rig.wait(0.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.BEHIND
