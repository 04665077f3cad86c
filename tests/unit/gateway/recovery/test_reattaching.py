"""What a worker still holds goes on under a new attempt; only what it does not hold is computed again."""

import pytest

from gateway.inflight.generation import Cause, HeldAt
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import (
    DETOKENIZER,
    TOKENIZER,
    WORKER,
)
from wire.columns import pack_u64
from wire.messages import (
    ErrorCode,
    Failed,
    InstanceState,
    Released,
    Stage,
)


def test_tokens_that_a_detokenizer_misses_are_a_gap_and_no_crash(rig: Rig) -> None:
    rig.run()
    failed = Failed(key=1, sender=DETOKENIZER, code=ErrorCode.INTERNAL, message="lost", is_retryable=True, choice=0)
    rig.recovery.failed(failed)

    assert rig.cause is Cause.GAP
    assert rig.generation.num_crashes == 0


def test_the_old_attempt_is_aborted_where_it_may_still_run(rig: Rig) -> None:
    rig.run()
    rig.clock.now += 1.0  # without a heartbeat
    rig.recovery.repair(rig.generation, Cause.SILENT)

    assert rig.recovery.outbox.take_aborts() == [(WORKER.instance_id, 1), (DETOKENIZER.instance_id, 1)]
    assert rig.in_flight.by_key == {}
    assert rig.ended.attempts == [Cause.SILENT]
    assert rig.counted.stages == [Stage.WORKER]


@pytest.mark.parametrize("cause", [Cause.GAP, Cause.BEHIND, Cause.MISSING, Cause.OUTAGE, Cause.DETOKENIZER_LEFT])
def test_a_worker_that_may_have_it_still_is_asked_to_go_on(rig: Rig, cause: Cause) -> None:
    rig.run()
    rig.recovery.repair(rig.generation, cause)

    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.recovery.outbox.take_aborts() == [(DETOKENIZER.instance_id, 1)]
    assert rig.recovery.outbox.take_due() == [rig.generation]
    rig.report(WORKER, 1)
    assert rig.recovery.outbox.take_aborts() == [], "the worker knows it by the old key for a moment"


def test_a_lost_detokenizer_is_not_told(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.DETOKENIZER, state=InstanceState.LEAVING)

    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.recovery.outbox.take_aborts() == []


def test_a_worker_that_has_accepted_nothing_has_nothing(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    rig.recovery.gap(rig.generation)

    assert rig.generation.held is None


def test_a_worker_that_hands_a_request_back_is_not_asked_to_go_on(rig: Rig) -> None:
    rig.run()
    rig.recovery.released(Released(WORKER, pack_u64([1]), "draining"))

    assert rig.generation.held is None
    assert rig.cause is Cause.RELEASED


def test_a_detokenizer_that_hands_it_back_leaves_the_worker_alone(rig: Rig) -> None:
    rig.run()
    rig.recovery.released(Released(DETOKENIZER, pack_u64([1]), "draining"))

    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.cause is Cause.DETOKENIZER_LEFT


def test_a_refused_reattachment_is_a_resume_at_once(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_due()
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.recovery.released(Released(WORKER, pack_u64([2]), "not held"))

    assert rig.cause is Cause.NOT_HELD
    assert rig.generation.held is None
    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_a_reattachment_that_reaches_nobody_is_tried_again_while_the_worker_lives(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.recovery.unreachable(2)
    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)

    rig.retry(3, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.beat(Stage.WORKER, state=InstanceState.LEAVING)
    assert rig.generation.held is None


def test_a_reattachment_that_nobody_accepts_is_a_resume(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_aborts()
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.wait(1.2)

    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.held is None
    assert (WORKER.instance_id, 1) in rig.recovery.outbox.take_aborts(), "what it goes on with is nobody's any more"
