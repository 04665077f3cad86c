"""What every composition root builds: two connections, members, and a page of metrics."""

import asyncio
import urllib.request
from socket import socket

import pytest

from wire.bus import Delivery
from wire.messages import Abort, Heartbeat, Message, Stage
from wire.node import Node
from wire.settings import CommonSettings

pytestmark = pytest.mark.usefixtures("restored_logging")


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


async def test_a_slow_handler_of_data_does_not_hold_up_control(nats_url: str) -> None:
    node = await Node.connect(CommonSettings(nats_url=nats_url), Stage.WORKER, "demo")
    arrived = asyncio.Event()

    async def never_ends(_: Message, __: Delivery) -> None:
        await asyncio.Event().wait()

    async def arrive(_: Message, __: Delivery) -> None:
        arrived.set()

    await node.data.subscribe("test.node.data", never_ends)
    await node.control.subscribe("test.node.control", arrive)
    await node.data.publish("test.node.data", Abort(node.instance.peer, 1))
    await node.data.flush()
    await node.control.publish("test.node.control", Abort(node.instance.peer, 1))
    await asyncio.wait_for(arrived.wait(), 10)
    await node.close()
    assert not node.data.is_connected
    assert not node.control.is_connected


async def test_two_nodes_see_each_other(nats_url: str) -> None:
    def describe(node: Node) -> Heartbeat:
        instance = node.instance
        return Heartbeat(
            stage=instance.stage,
            peer=instance.peer,
            state=instance.state,
            served_model_name=instance.served_model_name,
            wire_level=1,
        )

    common = CommonSettings(nats_url=nats_url)
    gateway = await Node.connect(common, Stage.GATEWAY, "two nodes")
    worker = await Node.connect(common, Stage.WORKER, "two nodes")
    seen: asyncio.Queue[str] = asyncio.Queue()
    gateway.members.on_joined.append(lambda member: seen.put_nowait(member.instance_id))
    presences = [node.presence(lambda node=node: describe(node)) for node in (gateway, worker)]  # type: ignore[misc]
    for presence in presences:
        await presence.start()
    async with asyncio.timeout(10):
        while await seen.get() != worker.instance.instance_id:
            pass
    assert len(gateway.members.of_stage(Stage.WORKER, "two nodes")) == 1
    for presence in presences:
        await presence.stop()
    for node in (gateway, worker):
        await node.close()


async def test_the_metrics_page_shows_the_counters_of_the_bus(nats_url: str) -> None:
    port = free_port()
    node = await Node.connect(CommonSettings(nats_url=nats_url, metrics_port=port), Stage.WORKER, "demo")
    page = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    )
    assert "millrace_bus_undecodable_messages_total 0.0" in page
    assert "process_cpu_seconds_total" in page
    await node.close()


async def test_without_a_broker_there_is_no_node() -> None:
    common = CommonSettings(nats_url="nats://127.0.0.1:1", nats_connect_timeout=0.2)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        await Node.connect(common, Stage.WORKER, "demo")
