"""The wire between one instance and the broker, made of TCP: it can freeze, which no side notices, or be cut."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, cast

import uvloop


class _Relay(asyncio.Protocol):
    """One direction's reader: what it receives goes out at the other end, which is another one of these.

    What comes while the link is frozen, or before the other end is there, waits here, as if packets were dropped;
    so does the news that one end has gone.
    """

    def __init__(self, link: "Link") -> None:
        self._link = link
        self._unsent: list[bytes] = []
        self._other: asyncio.Transport | None = None
        self._is_over = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, but does not derive from it
        self._link.joined(self)

    def data_received(self, data: bytes) -> None:
        self._unsent.append(data)
        self.send_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        if self._other is None:
            self._link.left(self)
        else:
            self.send_on()

    def join(self, other: "_Relay") -> None:
        """Passes on to `other` what has come and what comes."""
        self._other = other.transport
        if self._other is None or self.transport is None or self.transport.is_closing():
            other.cut()
            return
        self.send_on()

    def send_on(self) -> None:
        """Passes on what waits, unless it has to wait longer."""
        if self._other is None or self._link.is_frozen:
            return
        if not self._other.is_closing():
            self._other.writelines(self._unsent)
        self._unsent.clear()
        if self._is_over:
            self._link.left(self)
            self._other.close()

    def cut(self) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            self.transport.abort()


class Link:
    """A port of ours that stands for the broker's. Every method but `url` runs on the loop of `Links`."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._relays: set[_Relay] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self.is_frozen = False

    @property
    def url(self) -> str:
        """Where the instance finds its broker."""
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def open(self) -> None:
        """Begins to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Arrival(self), "127.0.0.1", 0)

    async def freeze(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.is_frozen = True

    async def cut(self) -> None:
        """Every connection ends, and no new one lasts."""
        self._is_cut = True
        for relay in tuple(self._relays):
            relay.cut()

    async def heal(self) -> None:
        """As before; what a frozen link holds is delivered, late."""
        self.is_frozen = self._is_cut = False
        for relay in tuple(self._relays):
            relay.send_on()

    async def close(self) -> None:
        """Ends everything."""
        assert self._server is not None
        self._server.close()
        await self.cut()

    def joined(self, relay: _Relay) -> None:
        """A connection, of either side, was made."""
        self._relays.add(relay)
        if self._is_cut:
            relay.cut()

    def left(self, relay: _Relay) -> None:
        """A connection ended, and both sides know."""
        self._relays.discard(relay)

    def dial(self, arrival: _Relay) -> None:
        """Connects an arrival through to the broker."""
        task = asyncio.get_running_loop().create_task(self._dial(arrival))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial(self, arrival: _Relay) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, departure = await loop.create_connection(lambda: _Relay(self), "127.0.0.1", self._broker_port)
        except OSError:  # the broker is away, which its client learns as it would without us
            arrival.cut()
            return
        departure.join(arrival)
        arrival.join(departure)


class _Arrival(_Relay):
    """The instance's end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._link.dial(self)


class Links:
    """Every link, on a thread of its own, so that no test delays what passes."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._links: list[Link] = []

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Waits for a method of a link."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def open(self, broker_port: int) -> Link:
        """A new link to the broker."""
        link = Link(broker_port)
        self.run(link.open())
        self._links.append(link)
        return link

    def close(self) -> None:
        """Cuts all links and ends the thread."""
        for link in self._links:
            self.run(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
