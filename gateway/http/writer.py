"""An answer on its way to its client, on the bare ASGI interface: the other hot path.

Each turn takes whatever has accumulated, so a slow client costs fewer and larger writes, and its buffer is the state of
its generations, kept once. Nothing is sent before the first news, so an early error has its real HTTP status. Knows no
time: a client that takes too long loses its connection, and is then one that has left.
"""

import asyncio
import re

from litestar.types import Receive, Scope, Send

from gateway.errors import RequestError, body_of
from gateway.inflight.generation import Call
from gateway.inflight.pipeline import Pipeline
from gateway.inflight.spans import CallSpans
from gateway.rendering.answer import Answer, encode, error_events

_CLIENT_CLOSED = 499
_NOT_IN_A_HEADER = re.compile(rb"[^\x21-\x7e]")
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class CallWriter:
    """Submits a call and writes its answer. Whatever happens, no stage works on the call afterwards."""

    def __init__(self, call: Call, answer: Answer, request_id: str, pipeline: Pipeline, spans: CallSpans) -> None:
        self._call = call
        self._answer = answer
        self._id_header = (b"x-request-id", _NOT_IN_A_HEADER.sub(b"?", request_id.encode()))
        self._pipeline = pipeline
        self._spans = spans
        self._status = _CLIENT_CLOSED
        self._is_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of this one answer."""
        watcher = asyncio.create_task(self._watch_disconnect(receive))
        try:
            await self._pipeline.submit(self._call)
            await self._write(send)
        finally:
            watcher.cancel()
            if not self._call.is_done:
                await self._pipeline.abandon(self._call)
            self._spans.end(self._call, self._status)

    async def _watch_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._call.changed.set()

    async def _write(self, send: Send) -> None:
        await (self._stream(send) if self._call.is_streaming else self._whole(send))

    async def _whole(self, send: Send) -> None:
        call = self._call
        while not call.is_done and not call.error and not self._is_gone:
            await call.changed.wait()
        if self._is_gone:
            return
        if error := call.error:
            await self._refuse(send, error)
            return
        await self._start(send, 200, [(b"content-type", b"application/json")])
        await self._send(send, self._answer.body(), is_last=True)

    async def _stream(self, send: Send) -> None:
        call, answer = self._call, self._answer
        while not (chunk := answer.news()) and not call.is_done and not call.error and not self._is_gone:
            await call.changed.wait()
        if call.error and not chunk:
            await self._refuse(send, call.error)
            return
        await self._start(send, 200, list(_STREAM_HEADERS))
        while not self._is_gone:
            has_ended = call.is_done or call.error is not None
            if has_ended:
                chunk += answer.news()
                chunk += error_events(call.error) if call.error else answer.end()
            if chunk:
                await self._send(send, chunk, is_last=has_ended)
            if has_ended:
                return
            await call.changed.wait()
            chunk = answer.news()

    async def _refuse(self, send: Send, error: RequestError) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self._start(send, error.status, [(b"content-type", b"application/json"), *headers])
        await self._send(send, encode(body_of(error)), is_last=True)

    async def _start(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        await send({"type": "http.response.start", "status": status, "headers": [*headers, self._id_header]})

    async def _send(self, send: Send, body: bytes, *, is_last: bool) -> None:
        """Returns when there is room for it; the client may not have taken it yet."""
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})
