"""How long new work waits here: what a client that is sent away is told to wait."""

from gpu_worker.scheduling.batch import StepResult

MAX_BACKLOG_S = 600.0
_WEIGHT = 0.1  # of the sequence that has just finished: about the last twenty count


class Backlog:
    """The recent mean time that a sequence runs, and what follows from it for the queue.

    With r sequences running, of s seconds each, one ends every s / r seconds and lets in the next (Little's law).
    """

    def __init__(self) -> None:
        self._mean_run_s = 0.0

    def observe(self, result: StepResult) -> None:
        """Takes in the sequences that finished in a step; those that never ran say nothing."""
        for row in result.finishes:
            times = result.sequences[row].times
            if times.first_scheduled_ns:
                run_s = max(0, times.finished_ns - times.first_scheduled_ns) / 1e9
                weight = _WEIGHT if self._mean_run_s else 1.0
                self._mean_run_s += weight * (run_s - self._mean_run_s)

    def seconds(self, num_waiting: int, num_running: int) -> float:
        """The wait of who comes now; 0 until something has finished."""
        return min(MAX_BACKLOG_S, num_waiting * self._mean_run_s / max(1, num_running))
