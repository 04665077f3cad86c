"""Keys that were aborted, remembered for a while, because an abort can overtake the job that it is meant for."""

import time
from collections.abc import Callable

TOMBSTONE_S = 60.0


class Tombstones:
    """The aborted keys of the last minute."""

    def __init__(self, lifetime_s: float = TOMBSTONE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._expiries: dict[tuple[int, int | None], float] = {}

    def __len__(self) -> int:
        return len(self._expiries)

    def add(self, key: int, choice: int | None = None) -> None:
        """Remembers an abort of a whole key, or of one choice of it."""
        self._prune()
        self._expiries.pop((key, choice), None)  # so that it moves to the end
        self._expiries[key, choice] = self._clock() + self._lifetime_s

    def covers(self, key: int, choice: int | None = None) -> bool:
        """Whether the key as a whole, or this choice of it, was aborted."""
        now = self._clock()
        return any(self._expiries.get(name, 0.0) > now for name in ((key, None), (key, choice)))

    def _prune(self) -> None:
        # Insertion order is expiry order, so only the front can be stale.
        now = self._clock()
        while self._expiries:
            name = next(iter(self._expiries))
            if self._expiries[name] > now:
                return
            del self._expiries[name]
