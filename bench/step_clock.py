"""When which token was made: the bench engines write it down, the bench client subtracts it from what it saw.

A prompt of the bench is three token ids: run, stream, and the step interval in units of 10 µs.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL_UNIT_S = 1e-5
CHARS_PER_TOKEN = 4


@dataclass(slots=True)
class StepClock:
    """The times of a run's steps (`time.monotonic_ns`) and the step at which each stream got its first token."""

    folder: Path
    run: int = 0
    step_times: list[int] = field(default_factory=list)
    first_steps: dict[int, int] = field(default_factory=dict)

    def begin_run(self, run: int) -> None:
        """Notes that a request of `run` has come; the first one of a run begins afresh."""
        if run != self.run:
            self.run, self.step_times, self.first_steps = run, [], {}

    def begin_step(self, streams: Sequence[int]) -> None:
        """Notes that every one of `streams` gets a token now."""
        step = len(self.step_times)
        for stream in streams:
            if stream not in self.first_steps:
                self.first_steps[stream] = step
        self.step_times.append(time.monotonic_ns())

    def pause(self) -> None:
        """Writes the run down, since no stream is left of it; late ones may still come. The file is whole or absent."""
        file = self.folder / f"run-{self.run}.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"times": self.step_times, "first_steps": self.first_steps}), encoding="utf-8")
        partial.rename(file)


def read_run(folder: Path, run: int) -> tuple[list[int], dict[int, int]]:
    """The step times of a run, and the first step of each stream."""
    content = json.loads((folder / f"run-{run}.json").read_text(encoding="utf-8"))
    return content["times"], {int(stream): step for stream, step in content["first_steps"].items()}
