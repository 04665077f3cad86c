"""What a soak has seen, and how it is shown."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

BETWEEN_FAULTS = "between faults"
_MAX_LINES = 20


@dataclass(slots=True)
class SoakReport:
    """Counts. A stream that its gateway took along into death counts apart: nobody is left to finish it."""

    began_at: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    num_streams: int = 0
    num_equal: int = 0
    num_failed: int = 0
    num_unequal: int = 0
    num_cut_off: int = 0
    num_turned_away: int = 0
    attempts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    pauses: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    beyond: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    repeated: Counter[str] = field(default_factory=Counter)
    repetitions: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def is_flawless(self) -> bool:
        """Every admitted stream was completed and equal, and what need not be computed twice was not."""
        has_run = self.num_streams > 0 and self.faults.total() > 0
        return has_run and self.num_equal == self.num_streams and not any(self.repeated.values())

    def note_pauses(self, kind: str, pauses: Sequence[float], absence_s: float) -> None:
        """What the streams that were hit have seen of a fault; `absence_s` is how long it could not have been less."""
        self.pauses[kind] += pauses
        self.beyond[kind] += [pause - absence_s for pause in pauses]

    def note_repeated(self, kind: str, num_tokens: int, attempts: Counter[str]) -> None:
        """How much was prefilled during a fault that left all workers alone, and what was attempted meanwhile."""
        self.repeated[kind] += num_tokens
        if num_tokens:
            number = self.faults.total()
            self.repetitions.append(f"fault {number}, {kind}: {num_tokens} tokens, attempts: {_listed(attempts)}")

    def line(self) -> str:
        """How it goes so far."""
        minutes = (time.monotonic() - self.began_at) / 60
        return f"{minutes:.1f} min: {self.faults.total()} faults, {self.num_streams} streams, {self.num_equal} equal"

    def text(self) -> str:
        """The tables."""
        heads = f"{'p50 s':>8}{'p99 s':>8}{'max s':>8}{'beyond s':>10}{'prefill repeated':>18}"
        lines = [f"{'fault':<28}{'injected':>9}{'hit':>7}{heads}"]
        for kind in sorted(self.faults):
            pauses = self.pauses[kind]
            shown = "".join(f"{percentile(pauses, share):>8.2f}" for share in (0.5, 0.99, 1.0))
            shown += f"{percentile(self.beyond[kind], 1.0):>10.2f}"
            repeated = str(self.repeated[kind]) if kind in self.repeated else "-"
            lines.append(f"{kind:<28}{self.faults[kind]:>9}{len(pauses):>7}{shown}{repeated:>18}")
        by_moment = ", ".join(f"{count} {moment}" for moment, count in sorted(self.moments.items()))
        return "\n".join(
            [
                self.line(),
                *lines,
                f"faults injected: {self.faults.total()} ({by_moment})",
                f"streams run: {self.num_streams}, equal: {self.num_equal}, unequal: {self.num_unequal}, "
                f"failed: {self.num_failed}",
                f"beside these, cut off by their gateway's death: {self.num_cut_off}, "
                f"turned away by a gateway that was leaving or cut off: {self.num_turned_away}",
                f"attempts after the first: {sum(counts.total() for counts in self.attempts.values())}",
                *(f"  {kind}: {_listed(counts)}" for kind, counts in sorted(self.attempts.items()) if counts),
                "beyond: the longest pause, without the time for which the broker or the stream's own gateway was away",
                *self.repetitions[:_MAX_LINES],
                *self.differences[:_MAX_LINES],
            ]
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so much of all does not exceed; nothing of nothing."""
    if not values:
        return math.nan
    return sorted(values)[math.ceil(share * len(values)) - 1]
