"""Who comes while the connection to NATS is lost is kept for a moment, and then turned away."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.admission import Admission
from gateway.errors import RequestError
from wire.messages import InstanceState

ENOUGH_S = 60.0


class Connection:
    """What `Admission` sees of a bus."""

    def __init__(self) -> None:
        self.is_connected = True
        self._listeners: list[Callable[[bool], None]] = []

    def on_connection_change(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)

    def change(self, *, is_connected: bool) -> None:
        self.is_connected = is_connected
        for listener in self._listeners:
            listener(is_connected)


class Door:
    """An admission that only its connections can close; `patience_s` is the heartbeat timeout."""

    def __init__(self, patience_s: float) -> None:
        self.data, self.control = Connection(), Connection()
        node: Any = SimpleNamespace(
            data=self.data,
            control=self.control,
            members=SimpleNamespace(timeout_s=patience_s),
            instance=SimpleNamespace(state=InstanceState.READY),
        )
        pipeline: Any = SimpleNamespace(dispatcher=SimpleNamespace(missing_stage=lambda: None))
        self.admission = Admission(node, pipeline, max_queued_requests=-1)


async def knock(door: Door) -> "asyncio.Task[None]":
    """A call that has come as far as it can."""
    call = asyncio.create_task(door.admission.check())
    await asyncio.sleep(0)
    return call


async def test_a_call_waits_until_both_connections_are_back() -> None:
    door = Door(ENOUGH_S)
    door.data.change(is_connected=False)
    door.control.change(is_connected=False)
    call = await knock(door)
    door.data.change(is_connected=True)
    await asyncio.sleep(0)
    assert not call.done()
    door.control.change(is_connected=True)
    await call


async def test_whoever_waits_for_longer_than_the_heartbeat_timeout_is_turned_away() -> None:
    door = Door(patience_s=0.01)
    door.data.change(is_connected=False)
    with pytest.raises(RequestError, match="The connection to NATS is lost") as refused:
        await door.admission.check()
    assert refused.value.status == 503


async def test_readiness_does_not_wait() -> None:
    door = Door(ENOUGH_S)
    door.control.change(is_connected=False)
    with pytest.raises(RequestError, match="The connection to NATS is lost"):
        door.admission.check_ready()
