"""What does recovery cost while nothing goes wrong? The pipeline with it and without it, in turns, on one machine.

`python -m bench.recovery` runs two systems (see `bench.pipeline`), one with `--disable-recovery`, and loads them one
after the other, so that both meet the same moods of the machine. The ratio is that of the medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from bench.pipeline import FREE, PACED, Bench, Workload, pipeline

_WORKLOADS = (PACED[1], FREE[1])


def _compare(with_recovery: Bench, without: Bench, workload: Workload, num_repeats: int) -> str:
    rates: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for repeat in range(num_repeats):
        pair = (with_recovery, without) if repeat % 2 else (without, with_recovery)
        for bench in pair:
            measured = bench.measure(workload)
            which = 0 if bench is with_recovery else 1
            rates[which].append(measured.tokens_per_s)
            cpu[which].append(sum(measured.cpu_us.values()))
    on, off = (statistics.median(runs) for runs in rates)
    cpu_on, cpu_off = (statistics.median(runs) for runs in cpu)
    return (
        f"{workload.name:<20}{on:>11,.0f}{off:>11,.0f}{on / off:>9.3f}"
        f"{cpu_on:>12.2f}{cpu_off:>10.2f}{cpu_on / cpu_off:>9.3f}"
    )


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="runs of each workload and system")
    repeats = parser.parse_args().repeats
    with (
        tempfile.TemporaryDirectory() as on,
        tempfile.TemporaryDirectory() as off,
        pipeline(Path(on)) as with_recovery,
        pipeline(Path(off), is_recovering=False) as without,
    ):
        print(f"{'workload':<20}{'tok/s on':>11}{'off':>11}{'ratio':>9}{'µs/tok on':>12}{'off':>10}{'ratio':>9}")
        for workload in _WORKLOADS:
            for bench in (with_recovery, without):
                bench.measure(workload)
            print(_compare(with_recovery, without, workload, repeats))


if __name__ == "__main__":
    main()
