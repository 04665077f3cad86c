"""Aborts whose job has not come yet: an abort can overtake it, on another connection. Bounded in time and number."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_KEEP_S = 60.0
_MAX_KEYS = 100_000


@dataclass(slots=True)
class _Tombstone:
    expires_at: float
    is_whole: bool = False
    choices: set[int] = field(default_factory=set)


class Tombstones:
    """Which keys, or choices of a key, were aborted within the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_key: dict[int, _Tombstone] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def bury(self, key: int, choice: int | None) -> None:
        """Remembers an abort; of too many keys the oldest are forgotten."""
        tombstone = self._by_key.pop(key, None) or _Tombstone(0.0)
        tombstone.expires_at = self._clock() + _KEEP_S
        if choice is None:
            tombstone.is_whole = True
        else:
            tombstone.choices.add(choice)
        self._by_key[key] = tombstone
        if len(self._by_key) > _MAX_KEYS:
            del self._by_key[next(iter(self._by_key))]

    def covers(self, key: int, choice: int) -> bool:
        """Whether this choice was aborted, alone or with its key."""
        tombstone = self._by_key.get(key)
        return tombstone is not None and (tombstone.is_whole or choice in tombstone.choices)

    def choices(self, key: int) -> set[int]:
        """The choices of a key that were aborted one by one."""
        tombstone = self._by_key.get(key)
        return set(tombstone.choices) if tombstone else set()

    def sweep(self) -> None:
        """Forgets what is old enough."""
        now = self._clock()
        while self._by_key and next(iter(self._by_key.values())).expires_at <= now:
            del self._by_key[next(iter(self._by_key))]
