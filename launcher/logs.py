"""What the terminal shows: every instance's lines behind its name, in a colour per stage.

A progress bar (a line that ends in a carriage return) is redrawn in place on a terminal and left out elsewhere.
"""

import logging
import os
from collections.abc import Mapping
from typing import TextIO

LAUNCHER = "millrace"
_RESET = "\x1b[0m"
_ERASE_LINE = "\r\x1b[K"
_COLOURS = {"gateway": "36", "tokenizer": "33", "worker": "32", "detokenizer": "35", "nats": "34", LAUNCHER: "1"}


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Only a terminal gets colours, and none if NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR")


class Terminal:
    """Writes prefixed lines. One per process; every line is flushed, since a pipe may be watched."""

    def __init__(self, stream: TextIO, *, is_coloured: bool, name_width: int) -> None:
        self.stream = stream
        self._is_coloured = is_coloured
        self._is_interactive = stream.isatty()
        self._name_width = name_width
        self._has_bar = False

    def show(self, name: str, text: str, *, is_transient: bool = False) -> None:
        """One line of the instance `name`; a transient one is overwritten by whatever comes next."""
        if is_transient and not self._is_interactive:
            return
        start = _ERASE_LINE if self._has_bar else ""
        end = "" if is_transient else "\n"
        self._has_bar = is_transient
        self._write(f"{start}{self._prefix(name)} {text}{end}")

    def make_room(self) -> None:
        """Before something else writes to the stream: takes an unfinished progress bar away."""
        if self._has_bar:
            self._has_bar = False
            self._write(_ERASE_LINE)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            # Nobody reads any more (`millrace serve | head`). The lines go on being read and are dropped, since a
            # stage whose pipe is full would stand still.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def _prefix(self, name: str) -> str:
        label = f"{name:<{self._name_width}} |"
        colour = _COLOURS.get(name.rpartition("-")[0] or name)
        return f"\x1b[{colour}m{label}{_RESET}" if self._is_coloured and colour else label


class TerminalHandler(logging.Handler):
    """The launcher's own log lines, shown like those of an instance."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record, each of its lines behind the prefix."""
        for line in self.format(record).splitlines():
            self._terminal.show(LAUNCHER, line)
