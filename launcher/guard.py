"""Runs a command that knows nothing of us, and ends it when standard input does: `python -m launcher.guard COMMAND…`.

A pipe's other end closes however its holder dies, by SIGKILL too, and that on every Unix.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

_TERMINATE_TIMEOUT_S = 5.0


def main(command: Sequence[str]) -> int:
    """Returns the command's exit status, 128 + n if signal n ended it."""
    early: list[int] = []
    _on_stop_signals(early.append)  # a signal that comes before there is a child to take it
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  # the launcher's own command line
    _on_stop_signals(child.send_signal)
    for number in early:
        child.send_signal(number)
    threading.Thread(target=_end_with_stdin, args=(child,), daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _on_stop_signals(act: Callable[[int], None]) -> None:
    def handle(number: int, _: FrameType | None) -> None:
        act(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _end_with_stdin(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 4096):
        pass
    child.terminate()
    try:
        child.wait(_TERMINATE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
