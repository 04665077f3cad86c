"""A client process of the GPU benchmark: streams over raw sockets, the time of every arrival noted, read afterwards.

It takes `{"url", "bodies"}` as a line of standard input, answers "ready", waits for another line, sends all bodies at
once and prints, per stream, when it was asked for, when something arrived (ns), and how many tokens it says it had.
"""

import asyncio
import json
import re
import sys
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.sse_client import StreamProtocol

_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
_EVENT = b"data: {"


async def _stream(url: str, body: bytes) -> StreamProtocol:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    done: asyncio.Future[StreamProtocol] = asyncio.get_running_loop().create_future()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: StreamProtocol(head.encode() + body, done), parts.hostname, parts.port)
    return await done


async def _all(url: str, bodies: list[bytes]) -> list[StreamProtocol]:
    return await asyncio.gather(*(_stream(url, body) for body in bodies))


def _read(stream: StreamProtocol) -> dict[str, Any]:
    text = b"".join(received for _, received in stream.received)
    counts = _COMPLETION_TOKENS.findall(text)
    arrivals = [now for now, received in stream.received if _EVENT in received]
    found = {"asked_ns": stream.asked_ns, "arrivals_ns": arrivals, "num_tokens": int(counts[-1]) if counts else 0}
    return found if counts else found | {"error": text[:300].decode(errors="replace")}


def main() -> None:
    """One line in, "ready" out, one line in, one line out; until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        bodies = [json.dumps(body).encode() for body in order["bodies"]]
        print("ready", flush=True)
        sys.stdin.readline()
        streams = uvloop.run(_all(order["url"], bodies))
        # Standard output may be unbuffered, and then a signal may cut a long line in two.
        with open(sys.stdout.fileno(), "w", encoding="ascii", closefd=False) as buffered:
            buffered.write(json.dumps([_read(stream) for stream in streams]) + "\n")


if __name__ == "__main__":
    main()
