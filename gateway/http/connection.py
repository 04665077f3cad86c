"""One client's connection: uvicorn's protocol, and beside it what tells whether the client keeps up."""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.http.clients import Clients

_TOO_MANY = b'{"object":"error","message":"Too many connections.","type":"503","code":503}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
) % (len(_TOO_MANY), _TOO_MANY)


class Connection(HttpToolsProtocol):
    """Tells `Clients` of its begin and end, and keeps the two times by which they judge it."""

    def __init__(self, *arguments: Any, clients: Clients, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.behind_since = 0.0
        self.waits_since = time.monotonic()
        self._clients = clients
        self._is_last_request = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts it in. Whatever the kernel does not take at once makes the client one that is behind."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._clients.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it out."""
        self._clients.leave(self)
        super().connection_lost(exc)

    @property
    def num_unsent_bytes(self) -> int:
        """What waits for the client in this process."""
        return self.transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        """The kernel is full of what the client has not read."""
        super().pause_writing()
        self.behind_since = time.monotonic()

    def resume_writing(self) -> None:
        """The kernel has taken all that waited here."""
        super().resume_writing()
        self.behind_since = 0.0

    def on_message_begin(self) -> None:
        """A request has begun: its head must be whole within the timeout."""
        super().on_message_begin()
        self.waits_since = time.monotonic()

    def on_headers_complete(self) -> None:
        """The head is whole; of the body, something must come within each timeout."""
        super().on_headers_complete()
        self.waits_since = time.monotonic()
        if self._is_last_request:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        super().on_body(body)
        self.waits_since = time.monotonic()

    def on_message_complete(self) -> None:
        """The client owes nothing more."""
        super().on_message_complete()
        self.waits_since = 0.0

    def cut(self) -> None:
        """Drops what was not sent. The request's writer hears of it as of a client that left."""
        self.transport.abort()

    def refuse(self) -> None:
        """Before it has said anything."""
        self.transport.write(_REFUSAL)
        self.transport.close()

    def finish(self, grace_s: float) -> None:
        """An answer that has not begun says `Connection: close`; one that has begun leaves room for one request more,
        since its client may be sending that by now."""
        self._is_last_request = True
        self.timeout_keep_alive = grace_s  # type: ignore[assignment]  # seconds, whatever the annotation says
        if self.cycle is None or self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(grace_s, self.timeout_keep_alive_handler)
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False
