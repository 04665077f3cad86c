"""How near is each kernel to what the GPU can do, and how far from torch? Needs a CUDA device.

    python -m bench.kernels [--only TEXT] [--sweep] [--json FILE] [--jobs 8] [--independent]

A case is timed in a CUDA graph of many launches over rotating inputs, as a decode step launches its kernels: the median
of several replays. The floor is the time of the bytes that must move at the bandwidth of a copy, or that of the
operations at the rate of a large product, both measured at the start; so a kernel that only reads may stay below it.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.kernel_cases.case import KernelCase
from gpu_worker.kernels.triton_ops import launch

MODULES = ("linear", "attention", "sampling")
NUM_REPLAYS = 10
GRAPH_S = 2e-3  # about how long a graph is, within these limits:
MIN_LAUNCHES, MAX_LAUNCHES = 10, 100


@dataclass(frozen=True, slots=True)
class Machine:
    """What the GPU can do at best."""

    bytes_per_s: float
    flops_per_s: float

    def floor_us(self, case: KernelCase) -> float:
        return 1e6 * max(case.num_bytes / self.bytes_per_s, case.num_flops / self.flops_per_s)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; a time that could not be measured has its reason in `error`."""

    name: str
    us: float | None
    peer_us: float | None
    peer_name: str
    floor_us: float
    error: str = ""

    def __str__(self) -> str:
        def column(value: float | None) -> str:
            return f"{value:9.2f}" if value is not None else "        -"

        ratio = self.us / self.floor_us if self.us and self.floor_us else None
        ends = [text for text in (self.peer_name, self.error and f"FAILED {self.error}") if text]
        times = " ".join(map(column, (self.us, self.peer_us, self.floor_us, ratio)))
        return f"{self.name:44} {times}  {'; '.join(ends)}"


HEADER = f"{'case':44} {'ours µs':>9} {'peer µs':>9} {'floor µs':>9} {'ours/fl.':>9}  peer"


def main() -> None:
    args = _arguments()
    if not torch.cuda.is_available():
        sys.exit("bench.kernels needs a CUDA device")
    launch.DEPENDENT_LAUNCH = not args.independent
    device = torch.device("cuda", torch.cuda.current_device())
    if args.warm is not None:
        _warm(args, device)
        return
    if args.jobs:
        _compile_in_processes(args.jobs)
    machine = _measure_machine(device)
    print(
        f"{torch.cuda.get_device_name(device)}: copies {machine.bytes_per_s / 1e12:.2f} TB/s, "
        f"multiplies {machine.flops_per_s / 1e12:.0f} TFLOP/s; torch {torch.__version__}\n\n{HEADER}"
    )
    rows = []
    for case in _cases(args, device):
        rows.append(_row(case, machine))
        del case  # before the next one's inputs are made
        torch.cuda.empty_cache()
        print(rows[-1], flush=True)
        if args.json:
            with args.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
    if args.sweep:
        _print_best(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--only", default="", help="cases whose name contains this, or one of these with commas between"
    )
    parser.add_argument("--sweep", action="store_true", help="every configuration instead of the chosen one")
    parser.add_argument("--json", type=Path, help="append a line for each case to this file")
    parser.add_argument("--jobs", type=int, default=0, help="compile first, in as many processes")
    parser.add_argument("--independent", action="store_true", help="no kernel starts before the one before has ended")
    parser.add_argument("--warm", type=int, nargs=2, metavar=("PART", "PARTS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _cases(args: argparse.Namespace, device: torch.device) -> Iterator[KernelCase]:
    wanted = args.only.split(",")
    for module in MODULES:
        name = f"bench.kernel_cases.{module}"
        if importlib.util.find_spec(name) is None:
            if args.warm is None:
                print(f"(no {name})")
            continue
        try:
            makes_cases = getattr(importlib.import_module(name), "sweep" if args.sweep else "cases", None)
            for case in makes_cases(device) if makes_cases else ():
                if any(text in case.name for text in wanted):
                    yield case
                del case
        except Exception as error:  # noqa: BLE001 - the other modules' cases are still worth their time
            print(f"{name} FAILED {_first_line(error)}")


def _row(case: KernelCase, machine: Machine) -> Row:
    floor_us, errors = machine.floor_us(case), []

    def us(run: Callable[[int], object] | None) -> float | None:
        if run is None:
            return None
        try:
            return _time_us(run, case.num_sets, floor_us)
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is a result
            errors.append(_first_line(error))
            return None

    return Row(case.name, us(case.run), us(case.peer), case.peer_name, floor_us, "; ".join(errors))


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _time_us(run: Callable[[int], object], num_sets: int, floor_us: float) -> float:
    """Of one launch among many in a graph."""
    num_launches = round(min(max(1e6 * GRAPH_S / max(floor_us, 1.0), MIN_LAUNCHES), MAX_LAUNCHES))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(min(num_sets, 3)):
            run(i)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(num_launches):
            run(i % num_sets)
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(NUM_REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 1e3 * statistics.median(times) / num_launches


def _measure_machine(device: torch.device) -> Machine:
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_us = _time_us(lambda _: target.copy_(source), 1, 500)
    size = 8192
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    product_us = _time_us(lambda _: left @ right, 1, 1000)
    return Machine(2 * source.numel() / copy_us * 1e6, 2 * size**3 / product_us * 1e6)


def _compile_in_processes(num_jobs: int) -> None:
    """Fill Triton's cache on disk by launching every case once, each in one of the processes."""
    command = [sys.executable, "-m", "bench.kernels", *sys.argv[1:]]
    jobs = [subprocess.Popen([*command, "--warm", str(part), str(num_jobs)]) for part in range(num_jobs)]
    for job in jobs:
        job.wait()


def _warm(args: argparse.Namespace, device: torch.device) -> None:
    part, num_parts = args.warm
    for number, case in enumerate(_cases(args, device)):
        if number % num_parts == part:
            try:
                case.run(0)
                torch.cuda.synchronize()
            except Exception as error:  # noqa: BLE001 - it fails again where it is timed
                print(f"{case.name} FAILED to compile: {_first_line(error)}", flush=True)


def _print_best(rows: list[Row]) -> None:
    """The best three configurations of each kernel; a star marks the one that is chosen now."""
    print("\nbest")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.us is not None:
            groups.setdefault(row.name.rpartition(" ")[0], []).append(row)
    for name, group in groups.items():
        group.sort(key=lambda row: row.us or 0)
        best = [row for row in group if row in group[:3] or row.name.endswith("*")]
        print(f"{name:30} " + "   ".join(f"{row.name.rpartition(' ')[2]} {row.us:.2f}" for row in best))


if __name__ == "__main__":
    main()
