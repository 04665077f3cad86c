"""What operators read when requests leave an instance that is still there: once, and not for each request."""

import logging

from gateway.inflight.generation import Cause
from wire.presence import MemberTable

log = logging.getLogger(__name__)

_WHY = {
    Cause.WORKER_HUNG: "hangs in a step",
    Cause.SILENT: "tells nothing of its requests, although its heartbeats come",
}


class Notices:
    """Instances that were given up, and why. One that is gone or has recovered may be told of again."""

    def __init__(self, members: MemberTable) -> None:
        self._members = members
        self._told: set[tuple[str, Cause]] = set()

    def tell(self, instance_id: str, cause: Cause) -> None:
        """A request was taken from this instance."""
        if cause in _WHY and (instance_id, cause) not in self._told:
            self._told.add((instance_id, cause))
            log.warning("%s is given up: it %s. Its requests go on elsewhere", instance_id, _WHY[cause])

    def review(self) -> None:
        """Forgets what is over."""
        self._told = {(instance_id, cause) for instance_id, cause in self._told if self._holds(instance_id, cause)}

    def _holds(self, instance_id: str, cause: Cause) -> bool:
        member = self._members.get(instance_id)
        return member is not None and (cause is not Cause.WORKER_HUNG or member.is_hung)
