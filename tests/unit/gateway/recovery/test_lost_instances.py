"""An instance dies, hangs, leaves or was never there: whose requests are lost with it."""

import pytest

from gateway.inflight.generation import Cause
from gateway.inflight.recovery import TICK_S
from tests.unit.gateway.recovery.rig import PEERS, Rig
from tests.unit.gateway.streams import (
    TOKENIZER,
    WORKER,
)
from wire.messages import (
    Heartbeat,
    InstanceState,
    Peer,
    Stage,
)


@pytest.mark.parametrize(
    ("stage", "cause"),
    [(Stage.WORKER, Cause.WORKER_LOST), (Stage.DETOKENIZER, Cause.DETOKENIZER_LOST), (Stage.TOKENIZER, None)],
)
def test_a_dispatched_request_needs_its_worker_and_detokenizer_only(rig: Rig, stage: Stage, cause: Cause) -> None:
    rig.run()
    rig.members.drop(PEERS[stage].instance_id, "killed")

    assert rig.cause is cause


def test_before_dispatch_it_needs_its_tokenizer(rig: Rig) -> None:
    rig.members.drop(TOKENIZER.instance_id, "killed")

    assert rig.cause is Cause.TOKENIZER_LOST
    assert rig.recovery.outbox.take_aborts() == [("", 1)]


def test_a_worker_that_was_gone_before_the_dispatch_does_not_accept(rig: Rig) -> None:
    rig.members.drop(WORKER.instance_id, "killed")
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    assert rig.cause is None  # it may as well be so new that its first heartbeat is still on its way
    rig.wait(1.2)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_a_worker_that_drains_and_leaves_has_not_crashed(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.WORKER, state=InstanceState.DRAINING)
    rig.members.drop(WORKER.instance_id, "left")

    assert rig.cause is Cause.RELEASED
    assert rig.generation.num_crashes == 0


def test_another_gateway_may_die(rig: Rig) -> None:
    beat = Heartbeat(
        stage=Stage.GATEWAY, peer=Peer("g", 1), state=InstanceState.READY, served_model_name="m", wire_level=1
    )
    rig.members.hear(beat)
    rig.members.drop("g", "killed")

    assert rig.cause is None


def test_a_hung_step_is_a_loss(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.WORKER, step_age_s=61.0)
    rig.wait(TICK_S)

    assert rig.cause is Cause.WORKER_HUNG
    assert WORKER.instance_id in rig.generation.suspects


def test_a_worker_says_itself_how_long_its_steps_may_take(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.WORKER, step_age_s=61.0, step_timeout_s=300.0)
    rig.wait(TICK_S)

    assert rig.cause is None


def test_nobody_listening_is_noticed_at_once(rig: Rig) -> None:
    rig.recovery.unreachable(1)

    assert rig.cause is Cause.UNREACHABLE
    assert rig.generation.suspects == {TOKENIZER.instance_id}


def test_a_loss_tells_how_long_it_took_to_notice(rig: Rig) -> None:
    rig.clock.now += 2.5
    rig.members.drop(WORKER.instance_id, "no heartbeat")

    assert rig.counted.silences == [2.5]
