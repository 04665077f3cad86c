"""Looks at a running system from its bus: heartbeats to wait on."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from wire import subjects
from wire.bus import Bus, Delivery
from wire.login import BusOptions
from wire.messages import (
    Heartbeat,
    InstanceState,
    Message,
    Peer,
    PresenceProbe,
)
from wire.metrics import BusMetrics

Beats = dict[str, Heartbeat]


def _held(beat: Heartbeat) -> int:
    """Everything of a request; pages that only the prefix cache keeps are not used."""
    return beat.num_running + beat.num_waiting + beat.num_states + beat.num_pages_used


class Observer:
    """Hears every heartbeat, on a thread of its own, without being a member itself."""

    def __init__(self, nats_url: str) -> None:
        self._beats: Beats = {}
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._bus = self._run(self._connect(nats_url))

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _connect(self, nats_url: str) -> Bus:
        bus = await Bus.connect(BusOptions(url=nats_url), "observer", BusMetrics(CollectorRegistry()))
        await bus.subscribe(subjects.ALL_PRESENCE, self._hear)
        await bus.flush()
        return bus

    async def _hear(self, message: Message, _: Delivery) -> None:
        if isinstance(message, Heartbeat):
            with self._news:
                self._beats[message.peer.instance_id] = message
                self._news.notify_all()

    def wait_until(self, holds: Callable[[Beats], bool], what: str, timeout_s: float = 60.0) -> None:
        """Returns as soon as heartbeats, all of them newer than this call, make `holds` true."""
        with self._news:
            self._beats.clear()
        self._run(self._bus.publish(subjects.PROBE, PresenceProbe(Peer("observer", 1))))
        with self._news:
            is_true = self._news.wait_for(lambda: holds(self._beats), timeout_s)
            shown = "\n".join(map(str, self._beats.values()))
        assert is_true, f"not within {timeout_s:g} s: {what}\n{shown}"

    def wait_for_ready(self, instance_ids: set[str]) -> None:
        """Every one of these instances says that it takes work."""
        self.wait_until(
            lambda beats: instance_ids <= {i for i, beat in beats.items() if beat.state is InstanceState.READY},
            f"{sorted(instance_ids)} are ready",
        )

    def wait_for_rest(self, instance_ids: set[str]) -> None:
        """Every one of these instances says that it holds nothing: no request, sequence, stream or page."""
        self.wait_until(
            lambda beats: instance_ids <= beats.keys() and all(_held(beats[i]) == 0 for i in instance_ids),
            f"{sorted(instance_ids)} hold nothing",
        )

    def close(self) -> None:
        """Leaves the bus and ends the thread."""
        self._run(self._bus.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
