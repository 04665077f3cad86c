"""The bench's client process: N streams at once over raw sockets, every arrival noted. Prints one JSON line.

`python -m bench.sse_client URL RUN NUM_STREAMS NUM_TOKENS INTERVAL_S`. Raw sockets, because on a machine that the
pipeline shares with its client a comfortable HTTP client costs more than what is measured.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.step_clock import CHARS_PER_TOKEN, INTERVAL_UNIT_S

_TEXTS = re.compile(rb'"text":"([^"]*)"')
_EVENT_END = b"\n\n"
_LAST_EVENT = b"data: [DONE]"


class StreamProtocol(asyncio.Protocol):
    """Sends one request and keeps what comes, with its time; it is read when the run is over."""

    def __init__(self, request: bytes, done: "asyncio.Future[StreamProtocol]") -> None:
        self._request = request
        self._done = done
        self.asked_ns = time.monotonic_ns()
        self.received: list[tuple[int, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but does not derive from it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.monotonic_ns(), data))
        if _LAST_EVENT in data:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(self)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One stream: when it was asked for, whether it is complete, and (time, tokens so far) of whole events."""

    asked_ns: int
    is_complete: bool
    seen: list[tuple[int, int]]


def _read(stream: StreamProtocol) -> Arrivals:
    seen, num_chars, rest = [], 0, b""
    for now, received in stream.received:
        data = rest + received
        end = max(data.rfind(_EVENT_END), 0)
        rest = data[end:]
        if num_new := sum(map(len, _TEXTS.findall(data, 0, end))):
            num_chars += num_new
            seen.append((now, num_chars // CHARS_PER_TOKEN))
    is_complete = bool(stream.received) and _LAST_EVENT in stream.received[-1][1]
    return Arrivals(stream.asked_ns, is_complete, seen)


async def _stream(host: str, port: int, path: str, body: bytes) -> StreamProtocol:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[StreamProtocol] = loop.create_future()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    await loop.create_connection(lambda: StreamProtocol(head.encode() + body, done), host, port)
    return await done


async def _main(url: str, run: int, num_streams: int, num_tokens: int, interval_s: float) -> list[StreamProtocol]:
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
    json.dump([[a.asked_ns, a.is_complete, a.seen] for a in map(_read, found)], sys.stdout)
