"""What is held although nothing more will come, because it was moved elsewhere while this process was away. Losses are
noticed by presence, and aborts arrive; this finds the rest."""

import time
from collections.abc import Callable, Iterable

from detokenizer_svc.attempts import Attempt

FORGOTTEN_AFTER_S = 15.0  # a preempted sequence may pause too; should it go on after that, its gateway repairs it


class ForgottenWatch:
    """How far each attempt had come when this process was last away, and perhaps was not told of its end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._progress: dict[int, tuple[int, int]] = {}
        self._since = 0.0

    def was_away(self, attempts: Iterable[Attempt]) -> None:
        """An abort of any of these may have been lost."""
        self._progress = {attempt.key: attempt.progress for attempt in attempts}
        self._since = self._clock()

    def forgotten(self, attempts: Iterable[Attempt]) -> list[int]:
        """The keys of those that have not moved since; each doubt is told once."""
        if not self._progress or self._clock() - self._since <= FORGOTTEN_AFTER_S:
            return []
        progress, self._progress = self._progress, {}
        return [attempt.key for attempt in attempts if progress.get(attempt.key) == attempt.progress]
