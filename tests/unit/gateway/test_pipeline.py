"""The sending side of the requests in flight, where a gateway's outside cannot see it."""

from prometheus_client import CollectorRegistry

from gateway.inflight.pipeline import Pipeline
from gateway.metrics import GatewayMetrics
from wire.messages import Stage
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
