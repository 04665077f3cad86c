"""Keys that some holder reports and nobody here waits for, because an abort was lost or is still on its way."""

ANSWER_INTERVAL_S = 3.0


class Strangers:
    """When each was last answered, in that order."""

    def __init__(self) -> None:
        self._answered_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._answered_at)

    def expect(self, key: int, now: float) -> None:
        """A holder may name this key a while longer, and is right to: it is answered in another way."""
        self._prune(now)
        self._answered_at.pop(key, None)
        self._answered_at[key] = now

    def is_due(self, key: int, now: float) -> bool:
        """Whether this key is to be answered now: not again within a few seconds, since the answer goes to all."""
        self._prune(now)
        if key in self._answered_at:
            return False
        self._answered_at[key] = now
        return True

    def _prune(self, now: float) -> None:
        while self._answered_at:
            oldest = next(iter(self._answered_at))
            if now - self._answered_at[oldest] < ANSWER_INTERVAL_S:
                return
            del self._answered_at[oldest]
