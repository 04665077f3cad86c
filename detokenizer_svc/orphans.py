"""What is held although nothing more will come: for peers that nobody hears, and of attempts that were moved elsewhere
while this process was away. Losses themselves are noticed by presence, and aborts arrive; this finds the rest."""

import time
from collections.abc import Callable, Iterable

from detokenizer_svc.attempts import Attempt
from wire.messages import Peer
from wire.presence import MemberTable

ORPHAN_TIMEOUT_S = 10.0
FORGOTTEN_AFTER_S = 15.0  # a preempted sequence may pause too; should it go on after that, its gateway repairs it


class OrphanWatch:
    """Since when each peer has been absent from the members: a late batch can come after its worker was given up."""

    def __init__(self, members: MemberTable, clock: Callable[[], float] = time.monotonic) -> None:
        self._members = members
        self._clock = clock
        self._absent_since: dict[Peer, float] = {}

    def orphaned(self, peers: Iterable[Peer]) -> list[Peer]:
        """Those of `peers` that have been absent for longer than a heartbeat can take."""
        now = self._clock()
        absent = [peer for peer in peers if self._members.get(peer.instance_id) is None]
        self._absent_since = {peer: self._absent_since.get(peer, now) for peer in absent}
        return [peer for peer, since in self._absent_since.items() if now - since > ORPHAN_TIMEOUT_S]


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
