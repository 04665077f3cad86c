"""What the bus does while the broker is away, and when it is back."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from tests.unit.wire.broker import Broker
from tests.unit.wire.conftest import connect
from tests.unit.wire.samples import GATEWAY
from tests.unit.wire.test_bus import Inbox, counted
from wire.bus import Bus, NoReplyError
from wire.login import BusOptions
from wire.messages import Abort, Describe
from wire.metrics import BusMetrics


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    server = Broker(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(broker: Broker, registry: CollectorRegistry) -> AsyncIterator[Bus]:
    connected = await connect(broker.url, registry)
    yield connected
    await connected.close()


class Connection:
    """Turns the bus's calls into something to wait for."""

    def __init__(self, bus: Bus) -> None:
        self._changes: asyncio.Queue[bool] = asyncio.Queue()
        bus.on_connection_change(self._changes.put_nowait)

    async def becomes(self, *, connected: bool) -> None:
        """Waits for the next change, which must be this one."""
        assert await asyncio.wait_for(self._changes.get(), 20) is connected


async def test_publishing_while_the_broker_is_away_is_discarded_and_counted(
    broker: Broker, bus: Bus, registry: CollectorRegistry
) -> None:
    inbox = Inbox()
    await bus.subscribe("test.outage", inbox.receive)
    connection = Connection(bus)
    broker.stop()
    await connection.becomes(connected=False)
    assert not bus.is_connected
    assert not await bus.publish("test.outage", Abort(GATEWAY, 1))
    assert not await bus.send_job("test.outage", Abort(GATEWAY, 2), 2)
    with pytest.raises(NoReplyError, match="no reply"):
        await bus.request("test.outage", Abort(GATEWAY, 3), 600)
    assert counted(registry, "discarded_messages") == 3
    broker.start()
    await connection.becomes(connected=True)
    assert await bus.publish("test.outage", Abort(GATEWAY, 4))
    assert await inbox.next() == Abort(GATEWAY, 4)
    assert inbox.queue.empty()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_subscriptions_and_the_watch_for_unreachable_live_on_after_a_restart(
    broker: Broker, bus: Bus, registry: CollectorRegistry, number: signal.Signals
) -> None:
    inbox = Inbox()
    unreachable: asyncio.Queue[int] = asyncio.Queue()
    await bus.subscribe("test.restart", inbox.receive)
    await bus.watch_unreachable(unreachable.put_nowait)
    connection = Connection(bus)
    broker.stop(number)
    await connection.becomes(connected=False)
    broker.start()
    await connection.becomes(connected=True)
    assert await bus.publish("test.restart", Describe())
    assert await inbox.next() == Describe()
    assert await bus.send_job("test.nobody", Describe(), 7)
    assert await asyncio.wait_for(unreachable.get(), 10) == 7
    assert counted(registry, "reconnects") == 1


async def test_a_broker_that_hangs_is_noticed_without_any_traffic(broker: Broker, bus: Bus) -> None:
    connection = Connection(bus)
    broker.pause()
    await connection.becomes(connected=False)
    broker.resume()
    await connection.becomes(connected=True)


async def test_a_broker_that_hangs_keeps_nobody_from_leaving(broker: Broker, bus: Bus) -> None:
    broker.pause()
    async with asyncio.timeout(5):
        await bus.flush_last_words()
    broker.resume()


async def test_a_connection_that_the_broker_ends_with_an_error_is_opened_anew(broker: Broker, bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("test.ended", inbox.receive)
    connection = Connection(bus)
    await bus.flush()
    broker.reconfigure('authorization { user: "someone", password: "else" }\n')
    await connection.becomes(connected=False)
    broker.reconfigure("")
    await connection.becomes(connected=True)
    assert await bus.publish("test.ended", Describe())
    assert await inbox.next() == Describe()


async def test_closing_while_the_broker_is_away_ends_the_attempts(broker: Broker) -> None:
    bus = await connect(broker.url)
    connection = Connection(bus)
    broker.stop()
    await connection.becomes(connected=False)
    async with asyncio.timeout(10):
        await bus.close()


@pytest.fixture
def guarded_broker(tmp_path: Path) -> Iterator[Broker]:
    server = Broker(tmp_path, 'authorization { user: "miller", password: "sesame" }\n')
    server.start()
    yield server
    server.stop()


async def test_a_refused_password_is_told_as_the_cause(guarded_broker: Broker) -> None:
    options = BusOptions(url=guarded_broker.url, user="miller", password="wrong", connect_timeout_s=0.5)
    with pytest.raises(ConnectionError, match=r"(?i)authorization"):
        await Bus.connect(options, "test", BusMetrics(CollectorRegistry()))
    right = msgspec.structs.replace(options, password="sesame")
    bus = await Bus.connect(right, "test", BusMetrics(CollectorRegistry()))
    assert bus.is_connected
    await bus.close()
