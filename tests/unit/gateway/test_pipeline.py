"""The sending side of the requests in flight, where a gateway's outside cannot see it."""

import asyncio

from prometheus_client import CollectorRegistry

from gateway.inflight.generation import HeldAt
from gateway.inflight.pipeline import Pipeline
from gateway.inflight.recovery import TICK_S
from gateway.metrics import GatewayMetrics
from tests.unit.gateway.streams import DETOKENIZER, WORKER, generation_of
from wire.messages import Heartbeat, InstanceState, Stage
from wire.node import Node
from wire.settings import CommonSettings


async def test_aborts_wait_while_the_connection_is_down(nats_url: str) -> None:
    node = await Node.connect(CommonSettings(nats_url=nats_url), Stage.GATEWAY, "aborts-wait")
    pipeline = Pipeline(node, GatewayMetrics(CollectorRegistry(), "aborts-wait", node.members), 120.0)
    pipeline.recovery.outbox.aborts.append(("worker-1", 7))
    await node.control.close()
    await pipeline.abort("no such request")

    assert pipeline.recovery.outbox.aborts == [("worker-1", 7)]
    await node.close()


async def test_a_repair_waits_for_both_connections_since_it_may_need_either(nats_url: str) -> None:
    name = "repairs-wait"
    node = await Node.connect(CommonSettings(nats_url=nats_url), Stage.GATEWAY, name)
    pipeline = Pipeline(node, GatewayMetrics(CollectorRegistry(), name, node.members), 120.0)
    for stage, peer in ((Stage.WORKER, WORKER), (Stage.DETOKENIZER, DETOKENIZER)):
        ready = InstanceState.READY
        node.members.hear(Heartbeat(stage=stage, peer=peer, state=ready, served_model_name=name, wire_level=1))
    await pipeline.start()
    await node.control.close()
    generation = generation_of(pipeline.in_flight)
    generation.held = HeldAt(WORKER.instance_id, 7)
    pipeline.recovery.outbox.due.append(generation)
    await asyncio.sleep(3 * TICK_S)

    assert pipeline.recovery.outbox.due == [generation]
    assert generation.attempt is None
    await node.background.stop()
    await node.close()
