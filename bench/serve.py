"""How fast is the whole system on a GPU? Random weights of known shapes, through HTTP, NATS and every stage.

`python -m bench.serve [--shape 0.5B] [--workloads s1 s256]` starts `millrace serve` (recovery on, as always) and client
processes of its own on the same machine, and prints tokens per second, time to the first token, inter-token latency
and the CPU time of the stages. With `--url` it measures a server that runs already (vLLM, SGLang: the same requests).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import ProcessGroup, free_port
from bench.shapes import SHAPES, write_shape
from bench.workloads import NAMES, Ask, workload

_NUM_CLIENTS = 4
_START_TIMEOUT_S = 300.0


class Clients:
    """Client processes; a round of requests is spread over them."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        command = [sys.executable, "-m", "bench.load_client"]
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(_NUM_CLIENTS)
        ]

    def close(self) -> None:
        """Ends them."""
        for child in self._children:
            child.kill()

    def ask(self, asks: list[Ask]) -> list[dict[str, Any]]:
        """All at once; returns what arrived. Raises RuntimeError if an answer is not as long as asked for."""
        groups = [asks[number::_NUM_CLIENTS] for number in range(_NUM_CLIENTS)]
        busy = [(child, group) for child, group in zip(self._children, groups, strict=True) if group]
        for child, group in busy:
            self._tell(child, json.dumps({"url": self._url, "bodies": [self._body(asked) for asked in group]}))
        for child, _ in busy:
            self._hear(child)
        for child, _ in busy:
            self._tell(child, "go")
        streams = []
        for child, group in busy:
            for asked, stream in zip(group, json.loads(self._hear(child)), strict=True):
                if stream["num_tokens"] != asked.num_tokens:
                    raise RuntimeError(f"{stream['num_tokens']} of {asked.num_tokens} tokens: {stream.get('error')}")
                streams.append(stream)
        return streams

    def _body(self, asked: Ask) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": asked.prompt_ids,
            "max_tokens": asked.num_tokens,
            "temperature": asked.temperature,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    @staticmethod
    def _tell(child: "subprocess.Popen[str]", line: str) -> None:
        assert child.stdin is not None
        child.stdin.write(line + "\n")
        child.stdin.flush()

    @staticmethod
    def _hear(child: "subprocess.Popen[str]") -> str:
        assert child.stdout is not None
        return child.stdout.readline()


def measure(clients: Clients, name: str, seed: int) -> dict[str, float]:
    """One run of a workload."""
    load = workload(name, seed)
    rounds = [clients.ask(asks) for asks in load.rounds]
    seconds = sum(_seconds(streams) for streams in rounds)
    streams = [stream for streams in rounds for stream in streams]
    first_tokens = [(stream["arrivals_ns"][0] - stream["asked_ns"]) / 1e6 for stream in streams]
    gaps = sorted(
        (later - earlier) / 1e6
        for stream in streams
        for earlier, later in zip(stream["arrivals_ns"], stream["arrivals_ns"][1:], strict=False)
    )
    return {
        "tokens_per_s": load.num_tokens / seconds,
        "ttft_p50_ms": statistics.median(first_tokens),
        "ttft_max_ms": max(first_tokens),
        "itl_p50_ms": gaps[len(gaps) // 2],
        "itl_p99_ms": gaps[len(gaps) * 99 // 100],
    }


def _seconds(streams: list[dict[str, Any]]) -> float:
    end = max(stream["arrivals_ns"][-1] for stream in streams)
    return (end - min(stream["asked_ns"] for stream in streams)) / 1e9


@contextmanager
def serving(shape: str, folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """`millrace serve` with random weights, until the context is left; gives URL and model name."""
    model = write_shape(shape, folder)
    port = free_port()
    options = {
        "--model-path": str(model),
        "--served-model-name": shape,
        "--load-format": "dummy",
        "--port": str(port),
        "--gateways": str(arguments.gateways),
        "--tokenizers": str(arguments.tokenizers),
        "--detokenizers": str(arguments.detokenizers),
        "--log-level": "info",
    }
    with ProcessGroup(folder) as group:
        words = [word for option in options.items() for word in option]
        group.start_module("serve", "launcher", ["serve", *words, *arguments.serve_options], {})
        url = f"http://127.0.0.1:{port}"
        group.wait_for_http(f"{url}/ready", _START_TIMEOUT_S)
        yield url, shape


def stage_cpu_seconds() -> dict[str, float]:
    """CPU time so far of every process of a stage on this machine, by its module."""
    found: dict[str, float] = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            name = next((w.decode() for w in words if w in _STAGES or w.endswith(b"nats-server")), None)
            if name is not None:
                fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                name = Path(name).name
                found[name] = found.get(name, 0.0) + seconds
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


_STAGES = (b"gateway", b"tokenizer_svc", b"detokenizer_svc", b"gpu_worker")


def _report(url: str, model: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    clients = Clients(url, model)
    figures: dict[str, dict[str, float]] = {}
    seed = 0
    try:
        print(f"{'':<7}{'tok/s':>10}{'TTFT p50 ms':>13}{'max':>8}{'ITL p50 ms':>12}{'p99':>8}  CPU us per token")
        for name in arguments.workloads:
            seed += 1
            measure(clients, name, seed)
            runs = []
            before, cpu_tokens = stage_cpu_seconds(), 0
            for _ in range(arguments.repeats):
                seed += 1
                runs.append(measure(clients, name, seed))
                cpu_tokens += workload(name, seed).num_tokens
            after = stage_cpu_seconds()
            best = figures[name] = max(runs, key=lambda run: run["tokens_per_s"])
            shares = {stage: 1e6 * (after[stage] - before.get(stage, 0.0)) / cpu_tokens for stage in after}
            cpu = ", ".join(f"{stage} {share:.1f}" for stage, share in shares.items())
            print(
                f"{name:<7}{best['tokens_per_s']:>10,.0f}{best['ttft_p50_ms']:>13.1f}{best['ttft_max_ms']:>8.1f}"
                f"{best['itl_p50_ms']:>12.2f}{best['itl_p99_ms']:>8.2f}  {cpu}",
                flush=True,
            )
    finally:
        clients.close()
    return figures


def main() -> None:
    """Prints a table per shape."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--workloads", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--repeats", type=int, default=2, help="runs per row; the best is shown")
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--tokenizers", type=int, default=1)
    parser.add_argument("--detokenizers", type=int, default=2)
    parser.add_argument("--url", help="measure the server that runs there, instead of starting one")
    parser.add_argument("--model", default="", help="its model's name")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    parser.add_argument("serve_options", nargs="*", help="after --, further options of `millrace serve`")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    if arguments.url:
        figures[arguments.model] = _report(arguments.url, arguments.model, arguments)
    else:
        for shape in arguments.shape:
            print(
                f"{shape}: {arguments.gateways} gateways, {arguments.tokenizers} tokenizers, "
                f"{arguments.detokenizers} detokenizers, {_NUM_CLIENTS} clients, {os.cpu_count()} cores"
            )
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                with serving(shape, Path(folder), arguments) as (url, model):
                    print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
                    figures[shape] = _report(url, model, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
