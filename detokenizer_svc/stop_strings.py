"""Finds stop strings in text that arrives in pieces, and holds back what may become one. Knows no tokens."""

import re


class StopStrings:
    """One sequence's stop strings. What has been emitted never holds the beginning of a match.

    Of several matches in one piece the one that begins first wins, then the longest, then the first listed.
    """

    __slots__ = ("_held", "_is_trimmed", "_search_begin", "_stops", "matched")

    def __init__(self, stops: tuple[str, ...], *, no_stop_trim: bool) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._search_begin = re.compile("|".join({re.escape(stop[0]) for stop in self._stops}) or r"(?!)").search
        self._is_trimmed = not no_stop_trim
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str, *, may_match: bool) -> str:
        """The text that may be emitted now. Sets `matched` if a stop string ends in `piece`.

        With `may_match` false (the sequence is shorter than its minimum) a stop string that ends here is plain text.
        """
        if not self._held and self._search_begin(piece) is None:  # most pieces: no stop string begins here
            return piece
        text = self._held + piece
        if may_match and (found := self._find(text)):
            begin, stop = found
            self.matched = stop
            self._held = ""
            return text[:begin] if self._is_trimmed else text[: begin + len(stop)]
        hold_from = self._hold_from(text)
        self._held = text[hold_from:]
        return text[:hold_from]

    def flush(self) -> str:
        """The text that was held back, at the end of the sequence."""
        rest, self._held = self._held, ""
        return rest

    def _find(self, text: str) -> tuple[int, str] | None:
        num_held = len(self._held)
        best: tuple[int, str] | None = None
        for stop in self._stops:
            # A match must end in the new piece: one that ended before was below the minimum and stays text.
            begin = text.find(stop, max(0, num_held - len(stop) + 1))
            if begin >= 0 and (best is None or (begin, -len(stop)) < (best[0], -len(best[1]))):
                best = (begin, stop)
        return best

    def _hold_from(self, text: str) -> int:
        """Where the longest suffix begins that is a proper prefix of a stop string."""
        hold_from = len(text)
        for stop in self._stops:
            begin = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while 0 <= begin < hold_from:
                if stop.startswith(text[begin:]):
                    hold_from = begin
                    break
                begin = text.find(stop[0], begin + 1)
        return hold_from
