"""From the bytes that a process writes to lines."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_LINE = 1 << 16
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class OutputLine:
    """`is_transient`: it ended in a carriage return, so the next line is meant to overwrite it."""

    text: str
    is_transient: bool = False


class LineSplitter:
    """Cuts a stream of bytes at line ends. A line beyond 64 KiB is cut, so that nothing grows without bound."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def feed(self, chunk: bytes, *, is_last: bool = False) -> Iterator[OutputLine]:
        """The lines that this chunk completes; with `is_last` also the rest. Empty transient lines are left out."""
        self._pending += self._decoder.decode(chunk, final=is_last)
        start = 0
        for end in _LINE_END.finditer(self._pending):
            # A carriage return at the very end may be half of a line end, or the start of a redrawn line.
            if end.group() == "\r" and end.end() == len(self._pending) and not is_last:
                break
            text = self._pending[start : end.start()]
            start = end.end()
            if text or end.group() != "\r":
                yield OutputLine(text, is_transient=end.group() == "\r")
        self._pending = self._pending[start:]
        if self._pending and (is_last or len(self._pending) > _MAX_LINE):
            yield OutputLine(self._pending)
            self._pending = ""
