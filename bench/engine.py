"""How fast is the engine alone? Random weights of known shapes, the workloads by name, no bus and no text.

`python -m bench.engine [--shape 0.5B] [--workloads s1 s64]` prints tokens per second, time of a step and time to the
first token. `--profile` adds, for steady decode steps, how busy the GPU is and which kernels its time goes to.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.shapes import SHAPES, write_shape
from bench.workloads import NAMES, Workload, workload
from gpu_worker.engine import Engine
from gpu_worker.engine_build import build_engine
from gpu_worker.engine_options import EngineOptions
from gpu_worker.scheduling.sequence import GenerationRequest, NewSequence
from wire.sampling import SamplingParams

_PROFILED_STEPS = 60


class Bench:
    """One engine, workload after workload."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._last_key = 0
        self._last_seed = 0

    def add(self, asked: Any) -> None:
        """Queue one request."""
        self._last_key += 1
        sampling = SamplingParams(
            max_new_tokens=asked.num_tokens, temperature=asked.temperature, ignore_eos=True, seed=self._last_key
        )
        self.engine.add(GenerationRequest(self._last_key, asked.prompt_ids, sampling, (NewSequence(self._last_key),)))

    def fresh(self, name: str) -> Workload:
        """The workload with prompts that were not used before."""
        self._last_seed += 1
        return workload(name, self._last_seed)

    def run(self, name: str) -> dict[str, float]:
        """Tokens per second, and the times of steps and first tokens in ms."""
        load = self.fresh(name)
        steps, first_tokens = [], []
        began = time.perf_counter()
        for asks in load.rounds:
            asked_at = time.perf_counter()
            for asked in asks:
                self.add(asked)
            num_new = 0
            before = asked_at
            while self.engine.has_work:
                num_new += len(self.engine.step().token_ids)
                now = time.perf_counter()
                steps.append(now - before)
                before = now
                if num_new and len(first_tokens) < load.rounds.index(asks) + 1:
                    first_tokens.append(now - asked_at)
        elapsed = time.perf_counter() - began
        return {
            "tokens_per_s": load.num_tokens / elapsed,
            "step_p50_ms": 1e3 * statistics.median(steps),
            "step_p99_ms": 1e3 * statistics.quantiles(steps, n=100)[98],
            "ttft_ms": 1e3 * statistics.median(first_tokens),
        }

    def profile(self, name: str) -> dict[str, Any]:
        """Of steady decode steps: the share of time that the GPU is busy, and its kernels by time per step in us."""
        import torch  # noqa: PLC0415
        from torch.profiler import ProfilerActivity  # noqa: PLC0415

        for asked in self.fresh(name).rounds[0]:
            self.add(asked)
        while self.engine.waiting() or any(s.is_prefilling for s in self.engine.running()):
            self.engine.step()
        for _ in range(10):
            self.engine.step()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(_PROFILED_STEPS):
            self.engine.step()
        step_us = 1e6 * (time.perf_counter() - began) / _PROFILED_STEPS
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(_PROFILED_STEPS):
                self.engine.step()
            torch.cuda.synchronize()
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type.name == "CUDA"
        )
        while self.engine.has_work:
            self.engine.step()
        kernels = sorted(
            ((row.self_device_time_total / _PROFILED_STEPS, row.count // _PROFILED_STEPS, row.key)
             for row in profiler.key_averages()),
            reverse=True,
        )  # fmt: skip
        return {"step_us": step_us, "busy": _busy_share(spans), "kernels": kernels[:18]}


def _busy_share(spans: list[tuple[float, float]]) -> float:
    """The part of the time from the first begin to the last end that is covered by a span."""
    busy, end = 0.0, spans[0][0]
    for begin, stop in spans:
        busy += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return busy / (end - spans[0][0])


def main() -> None:
    """Prints a table per shape."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--workloads", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--repeats", type=int, default=2, help="runs per row; the best is shown")
    parser.add_argument("--profile", nargs="*", choices=NAMES, default=[], help="workloads to look into")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--disable-cuda-graph", action="store_true")
    parser.add_argument("--disable-overlap", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory() as folder:
            options = EngineOptions(
                device=arguments.device,
                dtype="bfloat16",
                has_random_weights=True,
                has_cuda_graphs=not arguments.disable_cuda_graph,
                overlaps=not arguments.disable_overlap,
            )
            bench = Bench(build_engine(write_shape(shape, Path(folder)), options))
        print(f"{shape:<6}{'tok/s':>12}{'step p50 ms':>13}{'p99 ms':>10}{'TTFT ms':>10}", flush=True)
        for name in arguments.workloads:
            bench.run(name)
            runs = [bench.run(name) for _ in range(arguments.repeats)]
            best = figures[f"{shape} {name}"] = max(runs, key=lambda run: run["tokens_per_s"])
            print(
                f"{name:<6}{best['tokens_per_s']:>12,.0f}{best['step_p50_ms']:>13.3f}{best['step_p99_ms']:>10.3f}"
                f"{min(run['ttft_ms'] for run in runs):>10.2f}",
                flush=True,
            )
        for name in arguments.profile:
            found = figures[f"{shape} {name} profile"] = bench.profile(name)
            print(f"{shape} {name}: a step takes {found['step_us']:.0f} us, the GPU is busy {found['busy']:.1%}")
            for time_us, count, kernel in found["kernels"]:
                print(f"  {time_us:>9.1f} us {count:>5} x {kernel[:90]}")
        del bench
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
