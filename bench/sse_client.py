"""The bench's client process: N streams at once over raw sockets, every arrival noted. Prints one JSON line.

`python -m bench.sse_client URL RUN NUM_STREAMS NUM_TOKENS INTERVAL_S`. Raw sockets, because on a machine that the
pipeline shares with its client a comfortable HTTP client costs more than what is measured.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.step_clock import CHARS_PER_TOKEN, INTERVAL_UNIT_S

_TEXTS = re.compile(rb'"text":"([^"]*)"')
_EVENT_END = b"\n\n"


@dataclass(slots=True)
class Arrivals:
    """One stream: when it was asked for, and what had come when (`time.monotonic_ns`, tokens so far)."""

    asked_ns: int
    seen: list[tuple[int, int]] = field(default_factory=list)
    is_complete: bool = False


class StreamProtocol(asyncio.Protocol):
    """Sends one request and counts the tokens of its events as they come."""

    def __init__(self, request: bytes, done: "asyncio.Future[Arrivals]") -> None:
        self._request = request
        self._done = done
        self._arrivals = Arrivals(time.monotonic_ns())
        self._num_chars = 0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but does not derive from it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + data
        end = data.rfind(_EVENT_END)
        self._rest = data[end:] if end >= 0 else data
        num_chars = sum(len(text) for text in _TEXTS.findall(data, 0, max(end, 0)))
        if num_chars:
            self._num_chars += num_chars
            self._arrivals.seen.append((now, self._num_chars // CHARS_PER_TOKEN))
        if b"data: [DONE]" in data:
            self._arrivals.is_complete = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(self._arrivals)


async def _stream(host: str, port: int, path: str, body: bytes) -> Arrivals:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Arrivals] = loop.create_future()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    await loop.create_connection(lambda: StreamProtocol(head.encode() + body, done), host, port)
    return await done


async def _main(url: str, run: int, num_streams: int, num_tokens: int, interval_s: float) -> list[Arrivals]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    interval = round(interval_s / INTERVAL_UNIT_S)
    bodies = [
        json.dumps(
            {
                "model": "demo",
                "prompt": [run, stream, interval],
                "max_tokens": num_tokens,
                "stream": True,
                "ignore_eos": True,
            }
        ).encode()
        for stream in range(num_streams)
    ]
    return await asyncio.gather(*(_stream(parts.hostname, parts.port, "/v1/completions", body) for body in bodies))


if __name__ == "__main__":
    url, *numbers, interval = sys.argv[1:]
    run, num_streams, num_tokens = map(int, numbers)
    found = uvloop.run(_main(url, run, num_streams, num_tokens, float(interval)))
    json.dump([[a.asked_ns, a.is_complete, a.seen] for a in found], sys.stdout)
