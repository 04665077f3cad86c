"""What recovery counts."""

from typing import Protocol

from gateway.inflight.generation import Cause
from wire.messages import Stage


class RecoveryCounters(Protocol):
    """What recovery counts."""

    def count_repair(self, cause: Cause, stage: str) -> None:
        """An attempt that was given up, and where it was lost."""

    def observe_detection(self, stage: Stage, silence_s: float) -> None:
        """An instance was given up; it had been silent for so long."""

    def count_malformed(self) -> None:
        """A report whose columns do not fit together."""

    def count_unknown_keys(self, keys: int) -> None:
        """Keys that a holder reported and nobody here waits for."""
