"""What does ten times too much load do to those who were let in, and to `/health`?

`python -m bench.overload` runs the demo model with little room: first with as many clients as there is room for,
running and waiting, then with ten times as many in the same system. Whoever is refused (429) asks again a moment later.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench.processes import ProcessGroup, free_port

NUM_RUNNING = 8
NUM_QUEUED = 8
NUM_TOKENS = 64
RETRY_AFTER_S = 0.5  # sooner than the server asks for
PROBE_INTERVAL_S = 0.1
_BODY = json.dumps(
    {
        "text": "List all countries of Africa with capitals.",
        "sampling_params": {"max_new_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True},
        "stream": True,
    }
).encode()
_ASK = b"POST /generate HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_BODY),
    _BODY,
)


@dataclass(slots=True)
class Result:
    """What happened to all clients of a run; times in seconds."""

    num_admitted: int = 0
    num_refused: int = 0
    num_failed: int = 0
    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    probes_s: dict[str, list[float]] = field(default_factory=lambda: {"/health": [], "/metrics": []})


async def _ask(port: int, result: Result) -> bool:
    """One request; false if it was refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = last = time.perf_counter()
    writer.write(_ASK)
    status = await reader.readline()
    times: list[float] = []
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())
    writer.close()
    if status.startswith(b"HTTP/1.1 429"):
        result.num_refused += 1
        return False
    if not status.startswith(b"HTTP/1.1 200") or not times:
        result.num_failed += 1
        return True
    result.num_admitted += 1
    result.first_s.append(times[0] - asked)
    last = times[0]
    for now in times[1:]:
        result.gaps_s.append(now - last)
        last = now
    return True


async def _client(port: int, deadline: float, result: Result) -> None:
    while time.perf_counter() < deadline:
        if not await _ask(port, result):
            await asyncio.sleep(random.uniform(0.5, 1.5) * RETRY_AFTER_S)


async def _probe(port: int, deadline: float, result: Result) -> None:
    while time.perf_counter() < deadline:
        for path, times in result.probes_s.items():
            began = time.perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            result.num_failed += not answer.startswith(b"HTTP/1.1 200")
            times.append(time.perf_counter() - began)
        await asyncio.sleep(PROBE_INTERVAL_S)


async def _run(port: int, num_clients: int, seconds: float) -> Result:
    result = Result()
    deadline = time.perf_counter() + seconds
    clients = (_client(port, deadline, result) for _ in range(num_clients))
    await asyncio.gather(_probe(port, deadline, result), *clients)
    return result


def _quantiles(times: list[float]) -> str:
    ordered = sorted(times)
    if not ordered:
        return "-"
    middle, late = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return f"{middle:.0f} / {late:.0f}"


def _row(num_clients: int, result: Result) -> str:
    offered = result.num_admitted + result.num_refused + result.num_failed
    counts = f"{num_clients:>8}{offered:>9}{result.num_admitted:>10}{result.num_refused:>9}{result.num_failed:>8}"
    times = (result.first_s, result.gaps_s, *result.probes_s.values())
    return counts + "".join(f"{_quantiles(one):>16}" for one in times)


def main() -> None:
    """Prints the table; every pair is p50 / p99 in milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each run")
    arguments = parser.parse_args()
    room = NUM_RUNNING + NUM_QUEUED
    with tempfile.TemporaryDirectory() as folder, ProcessGroup(Path(folder)) as group:
        common = {"MILLRACE_NATS_URL": group.start_nats(), "MILLRACE_LOG_LEVEL": "warning"}
        port = free_port()
        for module in ("tokenizer_svc", "detokenizer_svc"):
            group.start_module(module, module, [], common)
        limits = {"MILLRACE_DEVICE": "cpu", "MILLRACE_MAX_RUNNING_REQUESTS": str(NUM_RUNNING)}
        group.start_module("gpu_worker", "gpu_worker", [], common | limits)
        limit = {"MILLRACE_MAX_QUEUED_REQUESTS": str(NUM_QUEUED)}
        group.start_module("gateway", "gateway", ["--port", str(port)], common | limit)
        group.wait_for_http(f"http://127.0.0.1:{port}/ready")
        uvloop.run(_run(port, NUM_RUNNING, 2.0))
        print(f"{platform.machine()}, {os.cpu_count()} cores, room for {NUM_RUNNING} running and {NUM_QUEUED} waiting")
        print(f"{'clients':>8}{'offered':>9}{'admitted':>10}{'refused':>9}{'failed':>8}", end="")
        print("".join(f"{name:>16}" for name in ("TTFT ms", "ITL ms", "/health ms", "/metrics ms")))
        for num_clients in (room, 10 * room):
            print(_row(num_clients, uvloop.run(_run(port, num_clients, arguments.seconds))))


if __name__ == "__main__":
    main()
