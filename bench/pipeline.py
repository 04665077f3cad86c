"""What does the pipeline itself cost? Every stage and the broker, one process each, around an engine without a model.

`python -m bench.pipeline` prints throughput, added latency and CPU per token, next to the floor: the same streams
from one process without a bus (`bench.one_process`), measured in the same run. Recovery, metrics and tracing (1 % of
requests) are on. Added latency is from the end of the engine's step to the arrival of the event at the client.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.hop import measure_hop_ms
from bench.processes import ProcessGroup, free_port
from bench.step_clock import read_run

_WARM_UP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Workload:
    """So many streams of so many tokens; a step per interval, 0 for as fast as it goes."""

    name: str
    num_streams: int
    num_tokens: int
    interval_s: float


PACED = (
    Workload("1 stream, 5 ms", 1, 400, 0.005),
    Workload("64 streams, 5 ms", 64, 600, 0.005),
    Workload("256 streams, 5 ms", 256, 600, 0.005),
)
FREE = (
    Workload("64 streams, free", 64, 4000, 0.0),
    Workload("256 streams, free", 256, 2000, 0.0),
)
FIRST_TOKEN = Workload("1 token", 1, 1, 0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Latencies in ms; `cpu_us` is CPU time per token and process."""

    tokens_per_s: float
    tokens_per_event: float
    p50_ms: float
    p99_ms: float
    first_token_ms: float
    cpu_us: dict[str, float]


Arrived = tuple[int, bool, list[tuple[int, int]]]
"""Of one stream: when it was asked for, whether it is complete, and (time, tokens so far) of its events."""


class Bench:
    """One system under test, run after run."""

    def __init__(self, group: ProcessGroup, url: str, clock_folder: Path) -> None:
        self._group = group
        self._url = url
        self._clock_folder = clock_folder
        self._last_run = 0

    def measure(self, workload: Workload) -> Measured:
        """Runs a workload once; raises RuntimeError if a stream did not complete."""
        self._last_run += 1
        before = self._group.cpu_seconds()
        arrivals = self._run_client(workload)
        after = self._group.cpu_seconds()
        step_times, first_steps = read_run(self._clock_folder, self._last_run)
        num_tokens = workload.num_streams * workload.num_tokens
        latencies = _latencies_ms(arrivals, step_times, first_steps, workload.num_tokens)
        first = [(seen[0][0] - asked) / 1e6 for asked, _, seen in arrivals]
        start, end = min(asked for asked, _, _ in arrivals), max(seen[-1][0] for _, _, seen in arrivals)
        return Measured(
            tokens_per_s=num_tokens / ((end - start) / 1e9),
            tokens_per_event=num_tokens / sum(len(seen) for _, _, seen in arrivals),
            p50_ms=_quantile(latencies, 0.5),
            p99_ms=_quantile(latencies, 0.99),
            first_token_ms=statistics.median(first),
            cpu_us={name: (after[name] - before[name]) / num_tokens * 1e6 for name in after},
        )

    def _run_client(self, workload: Workload) -> list[Arrived]:
        arguments = [self._url, self._last_run, workload.num_streams, workload.num_tokens, workload.interval_s]
        client = subprocess.run(
            [sys.executable, "-m", "bench.sse_client", *map(str, arguments)],
            capture_output=True,
            check=True,
            timeout=120,
        )
        arrivals: list[Arrived] = json.loads(client.stdout)
        for _, is_complete, seen in arrivals:
            if not is_complete or not seen or seen[-1][1] != workload.num_tokens:
                raise RuntimeError(f"a stream of {workload.name!r} is not complete: {seen[-1:]}")
        return arrivals


def _latencies_ms(
    arrivals: list[Arrived],
    step_times: list[int],
    first_steps: dict[int, int],
    num_tokens: int,
) -> list[float]:
    """Of every token after the warm-up: from its step to the event that brought it."""
    latencies = []
    num_warm_up = int(num_tokens * _WARM_UP_SHARE)
    for stream, (_, _, seen) in enumerate(arrivals):
        num_seen = 0
        for arrived_ns, num_now in seen:
            first = first_steps[stream]
            steps = range(first + max(num_seen, num_warm_up), first + num_now)
            latencies += [(arrived_ns - step_times[step]) / 1e6 for step in steps]
            num_seen = num_now
    return latencies or [(seen[0][0] - step_times[0]) / 1e6 for _, _, seen in arrivals]


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def _trace_sink() -> Iterator[str]:
    """A collector that takes every span and keeps none."""

    class Sink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
            """Stays quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def pipeline(folder: Path, *, is_recovering: bool = True) -> Iterator[Bench]:
    """The real stages and the broker, one process each."""
    with _trace_sink() as collector, ProcessGroup(folder) as group:
        common = {
            "MILLRACE_NATS_URL": group.start_nats(),
            "MILLRACE_OTLP_ENDPOINT": collector,
            "MILLRACE_TRACE_SAMPLE_RATIO": "0.01",
            "MILLRACE_LOG_LEVEL": "warning",
        }
        port = free_port()
        group.start_module("tokenizer", "tokenizer_svc", [], common)
        group.start_module("detokenizer", "detokenizer_svc", [], common)
        group.start_module("worker", "bench.pipeline_worker", [], common | {"MILLRACE_CLOCK_FOLDER": str(folder)})
        arguments = ["--port", str(port)] + ([] if is_recovering else ["--disable-recovery"])
        group.start_module("gateway", "gateway", arguments, common)
        url = f"http://127.0.0.1:{port}"
        group.wait_for_http(f"{url}/ready")
        yield Bench(group, url, folder)


@contextmanager
def floor(folder: Path) -> Iterator[Bench]:
    """One process, no bus."""
    with ProcessGroup(folder) as group:
        port = free_port()
        group.start_module("one process", "bench.one_process", [str(port), str(folder)], {})
        url = f"http://127.0.0.1:{port}"
        group.wait_for_http(url)
        yield Bench(group, url, folder)


def _measure_all(bench: Bench, num_repeats: int) -> dict[str, Measured]:
    for _ in range(5):
        bench.measure(FIRST_TOKEN)
    found = {w.name: _median([bench.measure(w) for _ in range(num_repeats)]) for w in (*PACED, *FREE)}
    found[FIRST_TOKEN.name] = _median([bench.measure(FIRST_TOKEN) for _ in range(20)])
    return found


def _median(runs: list[Measured]) -> Measured:
    def middle(value: Callable[[Measured], float]) -> float:
        return statistics.median(value(run) for run in runs)

    return Measured(
        middle(lambda run: run.tokens_per_s),
        middle(lambda run: run.tokens_per_event),
        middle(lambda run: run.p50_ms),
        middle(lambda run: run.p99_ms),
        middle(lambda run: run.first_token_ms),
        {name: middle(lambda run, name=name: run.cpu_us[name]) for name in runs[0].cpu_us},  # type: ignore[misc]
    )


def _hop_ms() -> float:
    with tempfile.TemporaryDirectory() as folder, ProcessGroup(Path(folder)) as group:
        return measure_hop_ms(group.start_nats())


def _print_report(piped: dict[str, Measured], alone: dict[str, Measured], hop_ms: float) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, one idle NATS hop {hop_ms:.2f} ms; in brackets the floor\n")
    print(f"{'workload':<20}{'tok/s':>22}{'tok/event':>11}{'p50 ms':>16}{'p99 ms':>16}")
    for workload in (*PACED, *FREE):
        ours, one = piped[workload.name], alone[workload.name]
        print(
            f"{workload.name:<20}{ours.tokens_per_s:>11,.0f} ({one.tokens_per_s:>8,.0f}){ours.tokens_per_event:>11.1f}"
            f"{ours.p50_ms:>8.2f} ({one.p50_ms:>5.2f}){ours.p99_ms:>8.2f} ({one.p99_ms:>5.2f})"
        )
    print("\nCPU per token (µs)")
    for workload in (*PACED, *FREE):
        cpu, floor_cpu = piped[workload.name].cpu_us, sum(alone[workload.name].cpu_us.values())
        parts = "  ".join(f"{name} {value:.2f}" for name, value in cpu.items())
        print(f"{workload.name:<20}{parts}  all {sum(cpu.values()):.2f} ({floor_cpu:.2f})")
    ours, one = piped[FIRST_TOKEN.name], alone[FIRST_TOKEN.name]
    print(f"\nTime to first token of one request, p50: {ours.first_token_ms:.2f} ms ({one.first_token_ms:.2f})")


def main() -> None:
    """Measures both systems and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs per workload; the median is shown")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder, pipeline(Path(folder)) as bench:
        piped = _measure_all(bench, repeats)
    with tempfile.TemporaryDirectory() as folder, floor(Path(folder)) as bench:
        alone = _measure_all(bench, repeats)
    _print_report(piped, alone, _hop_ms())


if __name__ == "__main__":
    main()
