"""A worker that tells nothing of a request while its heartbeats come: a message was lost, and hardly the request."""

import pytest

from gateway.inflight.generation import Cause, HeldAt
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import WORKER
from wire.columns import pack_u64
from wire.messages import Released, Stage

HELD = HeldAt(WORKER.instance_id, 1)


@pytest.fixture
def rig() -> Rig:
    """A request that runs."""
    rig = Rig()
    rig.run()
    return rig


def beat_for(rig: Rig, seconds: float) -> None:
    """Time passes, and the worker's heartbeats come."""
    for _ in range(round(seconds / 0.5)):
        rig.beat(Stage.WORKER)
        rig.wait(0.5)


def ask(rig: Rig, key: int, cause: Cause) -> None:
    """The next attempt asks the worker to go on."""
    accept_by = rig.recovery.acceptance_deadline()
    rig.retry(key, cause=cause, is_reattachment=True, tokenizer_id="", accept_by=accept_by)


def test_one_that_beats_is_asked_before_anything_is_computed_again(rig: Rig) -> None:
    beat_for(rig, 2.5)

    assert rig.cause is Cause.SILENT
    assert rig.generation.held == HELD
    assert rig.generation.num_crashes == 0


def test_one_that_has_nothing_left_says_so_and_a_resume_follows(rig: Rig) -> None:
    beat_for(rig, 2.5)
    ask(rig, 2, Cause.SILENT)
    rig.recovery.outbox.take_due()
    rig.recovery.released(Released(WORKER, pack_u64([2]), "not held"))

    assert rig.cause is Cause.NOT_HELD
    assert rig.generation.held is None
    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_a_question_that_was_lost_is_asked_once_more(rig: Rig) -> None:
    rig.recovery.gap(rig.generation)
    ask(rig, 2, Cause.GAP)
    beat_for(rig, 1.5)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.held == HELD

    ask(rig, 3, Cause.NOT_ACCEPTED)
    beat_for(rig, 1.5)
    assert rig.generation.held is None


def test_one_that_answers_nothing_is_asked_once(rig: Rig) -> None:
    beat_for(rig, 2.5)
    ask(rig, 2, Cause.SILENT)
    beat_for(rig, 1.5)

    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.held is None


def test_one_that_has_never_had_it_is_not_asked() -> None:
    rig = Rig()
    rig.dispatch()
    beat_for(rig, 1.5)

    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.held is None
