"""What does recovery cost while nothing goes wrong? The pipeline with it and without it, in turns, on one machine.

`python -m bench.recovery` runs two systems (see `bench.pipeline`), one with `--disable-recovery`, and loads them one
after the other, so that both meet the same moods of the machine. Every run is set against its neighbour: the ratio is
the geometric mean of the pairs' ratios, with 1.96 standard errors to either side: 95 % of such means for many pairs;
for the 8 of the first line that is a fifth too narrow. On a shared machine the pairs differ by 10 % and more:
an interval as wide as the answer says that it takes more pairs. The first run of a system is warm-up.
"""

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from bench.pipeline import FREE, PACED, Bench, Measured, Workload, pipeline

_PACED = PACED[1]
_FREE = Workload(FREE[1].name, FREE[1].num_streams, 1000, 0.0)
_QUANTILE_95 = 1.96


def _pairs(with_recovery: Bench, without: Bench, workload: Workload, num_pairs: int) -> list[tuple[Measured, Measured]]:
    for bench in (with_recovery, without):
        bench.measure(workload)
    pairs = []
    for number in range(num_pairs):
        if number % 2:
            on = with_recovery.measure(workload)
            off = without.measure(workload)
        else:
            off = without.measure(workload)
            on = with_recovery.measure(workload)
        pairs.append((on, off))
    return pairs


def _ratio(pairs: list[tuple[float, float]]) -> str:
    logs = [math.log(on / off) for on, off in pairs]
    mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs)) * _QUANTILE_95
    return f"{math.exp(mean):.3f} ({math.exp(mean - error):.3f}-{math.exp(mean + error):.3f})"


def _line(workload: Workload, pairs: list[tuple[Measured, Measured]]) -> str:
    rates = [(on.tokens_per_s, off.tokens_per_s) for on, off in pairs]
    cpu = [(sum(on.cpu_us.values()), sum(off.cpu_us.values())) for on, off in pairs]
    rate_on, rate_off = (statistics.median(side) for side in zip(*rates, strict=True))
    cpu_on, cpu_off = (statistics.median(side) for side in zip(*cpu, strict=True))
    return (
        f"{workload.name:<19}{len(pairs):>6}{rate_on:>10,.0f}{rate_off:>10,.0f}{_ratio(rates):>22}"
        f"{cpu_on:>8.2f}{cpu_off:>7.2f}{_ratio(cpu):>22}"
    )


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--paced", type=int, default=8, help="pairs of runs at 5 ms a step, 8 s a pair")
    parser.add_argument("--free", type=int, default=100, help="pairs of runs as fast as they go, 3 s a pair")
    arguments = parser.parse_args()
    if min(arguments.paced, arguments.free) < 2:  # one pair has no spread
        parser.error(f"at least two pairs each, not {arguments.paced} and {arguments.free}")
    with (
        tempfile.TemporaryDirectory() as on,
        tempfile.TemporaryDirectory() as off,
        pipeline(Path(on)) as with_recovery,
        pipeline(Path(off), is_recovering=False) as without,
    ):
        print(
            f"{'workload':<19}{'pairs':>6}{'tok/s on':>10}{'off':>10}{'ratio':>22}{'µs/tok':>8}{'off':>7}{'ratio':>22}",
            flush=True,
        )
        for workload, num_pairs in ((_PACED, arguments.paced), (_FREE, arguments.free)):
            print(_line(workload, _pairs(with_recovery, without, workload, num_pairs)), flush=True)


if __name__ == "__main__":
    main()
