"""How fast does the demo model stream on this machine's CPU? Through HTTP and all stages, next to the engine alone.

`python -m bench.demo` prints tokens per second for 1 and for 16 streams. The floor is the same engine in one process,
stepped in a loop, without a bus and without text.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.processes import ProcessGroup, free_port

NUM_TOKENS = 400
PROMPT = "List all countries of Africa with capitals."
STREAM_COUNTS = (1, 16)


async def _stream(client: httpx.AsyncClient, url: str, number: int) -> int:
    """Reads one stream to its end; returns how many tokens it had."""
    body = {
        "model": "demo",
        "prompt": f"{number}. {PROMPT}",
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    num_events = 0
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            num_events += line.startswith("data: {")
    if not num_events:
        raise RuntimeError(f"stream {number} had no event")
    return NUM_TOKENS


async def _tokens_per_s(url: str, num_streams: int) -> float:
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=num_streams)) as client:
        began = time.perf_counter()
        counts = await asyncio.gather(*(_stream(client, url, number) for number in range(num_streams)))
        return sum(counts) / (time.perf_counter() - began)


def measure_pipeline(num_repeats: int) -> dict[int, float]:
    """Tokens per second by number of streams, through every stage."""
    with tempfile.TemporaryDirectory() as folder, ProcessGroup(Path(folder)) as group:
        common = {"MILLRACE_NATS_URL": group.start_nats(), "MILLRACE_LOG_LEVEL": "warning"}
        port = free_port()
        for module in ("tokenizer_svc", "detokenizer_svc", "gpu_worker"):
            group.start_module(module, module, [], common)
        group.start_module("gateway", "gateway", ["--port", str(port)], common)
        url = f"http://127.0.0.1:{port}"
        group.wait_for_http(f"{url}/ready")
        asyncio.run(_tokens_per_s(url, 1))
        return {
            count: statistics.median(asyncio.run(_tokens_per_s(url, count)) for _ in range(num_repeats))
            for count in STREAM_COUNTS
        }


def measure_engine(num_streams: int) -> float:
    """Tokens per second of the engine alone, in this process."""
    from gpu_worker.engine_build import build_engine  # noqa: PLC0415  # torch, in a process of its own
    from gpu_worker.engine_options import EngineOptions  # noqa: PLC0415  # torch, in a process of its own
    from gpu_worker.scheduling.sequence import GenerationRequest, NewSequence  # noqa: PLC0415
    from wire.checkpoint import resolve  # noqa: PLC0415
    from wire.sampling import SamplingParams  # noqa: PLC0415

    engine = build_engine(resolve("demo").path, EngineOptions())
    sampling = SamplingParams(max_new_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)

    def run() -> float:
        for number in range(num_streams):
            engine.add(GenerationRequest(number, [10 + number, 20, 30], sampling, (NewSequence(number),)))
        began = time.perf_counter()
        while engine.has_work:
            engine.step()
        return num_streams * NUM_TOKENS / (time.perf_counter() - began)

    run()
    return statistics.median(run() for _ in range(3))


def _engine_in_a_process(num_streams: int) -> float:
    command = [sys.executable, "-m", "bench.demo", "--engine", str(num_streams)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Prints the table, or with `--engine N` one number."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs per row; the median is shown")
    parser.add_argument("--engine", type=int, metavar="N", help="only the engine, with N sequences")
    arguments = parser.parse_args()
    if arguments.engine:
        print(measure_engine(arguments.engine))
        return
    through = measure_pipeline(arguments.repeats)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, float32")
    print(f"{'streams':>8}{'tok/s through HTTP':>20}{'engine alone':>14}")
    for count, rate in through.items():
        print(f"{count:>8}{rate:>20,.0f}{_engine_in_a_process(count):>14,.0f}")


if __name__ == "__main__":
    main()
