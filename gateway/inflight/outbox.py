"""What recovery has decided and the pipeline has still to send."""

from dataclasses import dataclass, field

from gateway.inflight.generation import Generation


@dataclass(slots=True)
class Outbox:
    """What the sending side has to do next: aborts per holder (an empty id means everybody), and due generations."""

    aborts: list[tuple[str, int]] = field(default_factory=list)
    due: list[Generation] = field(default_factory=list)

    def take_aborts(self) -> list[tuple[str, int]]:
        """Empties that part of the box."""
        aborts, self.aborts = self.aborts, []
        return aborts

    def forget(self, holder_id: str) -> None:
        """It is gone, and its aborts concern nobody else: to all, they would end what a worker goes on with."""
        self.aborts = [abort for abort in self.aborts if abort[0] != holder_id]

    def take_due(self) -> list[Generation]:
        """Empties that part of the box."""
        due, self.due = self.due, []
        return due
