"""Clients that stop reading. Their requests are aborted, so that what they do not fetch is not made nor kept."""

import asyncio
import time
from typing import Protocol

from gateway.metrics import GatewayMetrics


class Writing(Protocol):
    """An answer on its way out. `blocked_since` is when its last write began; 0 between writes."""

    blocked_since: float

    def give_up(self) -> None:
        """Ends the write that does not."""


class Clients:
    """The answers being written. Looks at them now and then, so that a write costs two assignments and no timer."""

    def __init__(self, timeout_s: float, metrics: GatewayMetrics) -> None:
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._writing: set[Writing] = set()
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()

    def enter(self, answer: Writing) -> None:
        """An answer begins."""
        self._writing.add(answer)
        self._nobody_waits.clear()

    def leave(self, answer: Writing) -> None:
        """An answer has ended."""
        self._writing.discard(answer)
        if not self._writing:
            self._nobody_waits.set()

    async def all_served(self) -> None:
        """Returns when no answer is being written."""
        await self._nobody_waits.wait()

    async def watch(self) -> None:
        """Gives up on clients that read nothing for the timeout; runs until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._timeout_s / 4))
            deadline = time.monotonic() - self._timeout_s
            for answer in list(self._writing):
                if 0 < answer.blocked_since < deadline:
                    self._metrics.count_stuck_client()
                    answer.give_up()
