"""The open connections, and which of them must end: clients that stop reading or sending, and all when the gateway
leaves.

A client makes progress when some of what waits here for it goes to the kernel, which takes a few kilobytes at a time
and no more until they were read. So whoever reads a byte a second makes none.
"""

import asyncio
import logging
import time
from typing import Protocol

log = logging.getLogger(__name__)


class Client(Protocol):
    """A connection. `num_unsent_bytes` is what the kernel did not take, and nothing is added to it; `behind_since` is
    the last time that it took some, `waits_since` when the client last sent a part of an unfinished request. Both are 0
    while nothing is owed."""

    behind_since: float
    waits_since: float

    @property
    def num_unsent_bytes(self) -> int:
        """What waits for the client in this process."""
        ...

    def cut(self) -> None:
        """Ends it at once, and with it its request."""

    def refuse(self) -> None:
        """Sends it away unheard."""

    def finish(self, grace_s: float) -> None:
        """Answers what comes, as its last answer; ends it when nothing comes for so long."""


class StuckCounter(Protocol):
    """What is counted here."""

    def count_stuck_client(self) -> None:
        """A client that read too slowly was cut off."""


class Clients:
    """Looks at every connection now and then, so that a write costs no timer."""

    def __init__(self, timeout_s: float, metrics: StuckCounter, max_connections: int) -> None:
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._max_connections = max_connections
        self._open: set[Client] = set()
        self._unsent: dict[Client, int] = {}
        self._is_full = False
        self._grace_s: float | None = None
        self._are_gone = asyncio.Event()
        self._are_gone.set()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, client: Client) -> None:
        """A connection was made."""
        self._open.add(client)
        self._are_gone.clear()
        was_full, self._is_full = self._is_full, len(self._open) > self._max_connections
        if self._is_full:
            if not was_full:
                log.warning("more than %d connections: new ones are refused", self._max_connections)
            client.refuse()
        elif self._grace_s is not None:
            client.finish(self._grace_s)

    def leave(self, client: Client) -> None:
        """A connection is gone."""
        self._open.discard(client)
        if not self._open:
            self._are_gone.set()

    def finish(self, grace_s: float) -> None:
        """From here on every connection ends after its answer, or after so many seconds without a request."""
        self._grace_s = grace_s
        for client in list(self._open):
            client.finish(grace_s)

    async def all_gone(self) -> None:
        """Returns when there is no connection."""
        await self._are_gone.wait()

    async def watch(self) -> None:
        """Looks again and again; runs until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._timeout_s / 4))
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Ends clients that have made no progress for the timeout."""
        unsent_before, self._unsent = self._unsent, {}
        deadline = now - self._timeout_s
        for client in list(self._open):
            if client.behind_since:
                self._unsent[client] = num_bytes = client.num_unsent_bytes
                if num_bytes < unsent_before.get(client, num_bytes):
                    client.behind_since = now
                elif client.behind_since < deadline:
                    self._metrics.count_stuck_client()
                    log.warning("a client does not read what it asked for: its connection is closed")
                    client.cut()
            elif 0 < client.waits_since < deadline:
                client.cut()
