"""The estimate of how long new work waits."""

from array import array

import pytest

from gpu_worker.backlog import MAX_BACKLOG_S, Backlog
from gpu_worker.scheduling.batch import StepResult, StepStats
from gpu_worker.scheduling.finish import LENGTH
from gpu_worker.scheduling.sequence import Sequence, Times
from wire.sampling import SamplingParams


def step_with(*run_seconds: float | None) -> StepResult:
    """A step in which sequences finish that ran for so long, or never did."""
    result = StepResult(StepStats())
    for row, run_s in enumerate(run_seconds):
        times = Times(1, 0, 0, 10**12) if run_s is None else Times(1, 10**12, 0, 10**12 + round(run_s * 1e9))
        result.sequences.append(Sequence(row, 1, 0, SamplingParams(), array("I", [1]), 1, times, 5))
        result.finishes[row] = LENGTH
    return result


def test_nothing_is_known_before_something_has_finished() -> None:
    backlog = Backlog()
    backlog.observe(step_with())
    backlog.observe(step_with(None))
    assert backlog.seconds(100, 1) == 0.0


def test_the_queue_moves_by_one_whenever_one_of_the_running_ends() -> None:
    backlog = Backlog()
    backlog.observe(step_with(8.0))
    assert backlog.seconds(0, 4) == 0.0
    assert backlog.seconds(1, 4) == 2.0
    assert backlog.seconds(10, 4) == 20.0
    assert backlog.seconds(1, 0) == 8.0


def test_recent_sequences_count_more() -> None:
    backlog = Backlog()
    backlog.observe(step_with(10.0))
    backlog.observe(step_with(*[2.0] * 50))
    assert backlog.seconds(1, 1) == pytest.approx(2.0, abs=0.1)


def test_the_estimate_is_bounded() -> None:
    backlog = Backlog()
    backlog.observe(step_with(1e6))
    assert backlog.seconds(1000, 1) == MAX_BACKLOG_S
