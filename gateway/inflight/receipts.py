"""When a job that nobody has accepted is lost, and when its holder is merely slow. Knows no requests.

A holder takes its jobs in the order in which they were sent, and says so for each: while it accepts earlier ones, a
later one only waits its turn, and to send it again would make the queue longer.
"""

_SHORTEST_ACCEPTANCE_S = 1.0
_OUT_OF_ORDER_S = 0.5  # a worker has jobs from several tokenizers


class Receipts:
    """Per holder: when it last accepted a job, and the latest deadline among those that it accepted.

    It has half the heartbeat timeout to accept one: where instances are allowed to stand still for longer, so are jobs.
    """

    def __init__(self, heartbeat_timeout_s: float) -> None:
        self._acceptance_s = max(_SHORTEST_ACCEPTANCE_S, heartbeat_timeout_s / 2)
        self._last_at: dict[str, float] = {}
        self._latest: dict[str, float] = {}

    def deadline(self, now: float) -> float:
        """Until when a holder that is given a job now must say that it has it."""
        return now + self._acceptance_s

    def note(self, holder_id: str, now: float) -> None:
        """It has accepted some job."""
        self._last_at[holder_id] = now

    def note_deadline(self, holder_id: str, accept_by: float) -> None:
        """The job that it accepted had this deadline."""
        self._latest[holder_id] = max(accept_by, self._latest.get(holder_id, 0.0))

    def forget(self, holder_id: str) -> None:
        """It is gone."""
        self._last_at.pop(holder_id, None)
        self._latest.pop(holder_id, None)

    def is_lost(self, holder_id: str, accept_by: float, now: float) -> bool:
        """Whether a job with this deadline will not be accepted any more."""
        if now <= accept_by:
            return False
        has_been_skipped = self._latest.get(holder_id, 0.0) > accept_by + _OUT_OF_ORDER_S
        return has_been_skipped or now - self._last_at.get(holder_id, 0.0) > self._acceptance_s
