"""What counts as flawless in a soak, and what a stream's own gateway excuses."""

import math
import time

from tests.chaos.clients import ChaosStream
from tests.chaos.equality import differences, is_beginning
from tests.chaos.faults import Action
from tests.chaos.run import Expected
from tests.chaos.soak_report import SoakReport


class Judge:
    """Compares every stream with its undisturbed twin, and knows what was done to the gateways."""

    def __init__(self, report: SoakReport, expected: Expected) -> None:
        self._report = report
        self._expected = expected
        self._killed: set[str] = set()
        self._leaving: set[str] = set()
        self._cut_off_until: dict[str, float] = {}

    def note_struck(self, action: Action, gateway_id: str) -> None:
        """This is done to a gateway now."""
        if action is Action.KILL:
            self._killed.add(gateway_id)
        elif action is Action.DRAIN:
            self._leaving.add(gateway_id)
        elif action is Action.CUT:
            self._cut_off_until[gateway_id] = math.inf

    def note_mended(self, gateway_id: str) -> None:
        """A gateway reaches the others again."""
        if gateway_id in self._cut_off_until:
            self._cut_off_until[gateway_id] = time.monotonic()

    def take(self, stream: ChaosStream) -> None:
        """A stream is over: it was cut off by its gateway's death, turned away before it was let in, or it counts."""
        report, twin = self._report, self._expected[stream.ask]
        if stream.error is not None and stream.gateway_id in self._killed and is_beginning(stream, twin):
            report.num_cut_off += 1
        elif stream.error is not None and not stream.is_open and self._may_refuse(stream):
            report.num_turned_away += 1
        else:
            report.num_streams += 1
            found = differences(stream, twin)
            report.differences += [f"{line} ({self._circumstances(stream)})" for line in found]
            report.num_equal += not found
            report.num_failed += stream.error is not None
            report.num_unequal += bool(found) and stream.error is None

    def _may_refuse(self, stream: ChaosStream) -> bool:
        """Whether its gateway was leaving, or cut off for longer than it lets anybody wait."""
        if "The connection to NATS is lost" in str(stream.error):
            return stream.began_at < self._cut_off_until.get(stream.gateway_id, -math.inf)
        return stream.gateway_id in self._leaving

    def _circumstances(self, stream: ChaosStream) -> str:
        killed, leaving = stream.gateway_id in self._killed, stream.gateway_id in self._leaving
        fate = "killed" if killed else "leaving" if leaving else "alive"
        cause = stream.error and stream.error.__cause__
        return f"{'answered' if stream.is_open else 'not answered'} by {stream.gateway_id}, which is {fate}; {cause!r}"
