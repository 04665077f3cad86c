"""What is held for a peer that nobody hears. Presence tells of a loss once; work for the lost one can come later, from
a third one who has not noticed it yet. This finds that. Knows no bus."""

import time
from collections.abc import Callable, Iterable

from wire.messages import Peer
from wire.presence import MemberTable

ORPHAN_TIMEOUT_S = 10.0


class OrphanWatch:
    """Since when each peer has been absent from the members."""

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
