"""A real process of the pipeline: its log to wait on, its end to wait for."""

import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from wire.settings import ENV_PREFIX

_ENOUGH_S = 120.0
"""Two shared cores may take long; what this ends is a hang."""


class LoggedProcess:
    """Runs until it is told to end, and never longer than this process: its standard input is our pipe."""

    def __init__(
        self, name: str, command: Sequence[str], environ: Mapping[str, str], inherited_fds: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._is_over = False
        self.popen = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            pass_fds=inherited_fds,
            process_group=0,  # an interrupt at the terminal is for us, and we end it
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def wait_for_line(self, pattern: str, timeout_s: float = _ENOUGH_S) -> "re.Match[str]":
        """The first line that matches, past or future; fails with the log if the process ends without it."""
        found: re.Match[str] | None = None

        def has_come() -> bool:
            nonlocal found
            found = next((match for line in self.lines if (match := re.search(pattern, line))), None)
            return found is not None or self._is_over

        with self._news:
            self._news.wait_for(has_come, timeout_s)
        assert found is not None, f"{self.name} never logged {pattern!r}:\n{self.log}"
        return found

    @property
    def log(self) -> str:
        """Everything so far."""
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def wait(self, timeout_s: float = _ENOUGH_S) -> int:
        """The exit status, negative for a signal."""
        status = self.popen.wait(timeout_s)
        self._reader.join()
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            pipe.close()
        return status

    def end(self) -> None:
        """Makes sure that nothing is left."""
        if self.is_running:
            self.popen.kill()
        self.wait()


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line of a module in this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def environment(base: Mapping[str, str], **settings: object) -> dict[str, str]:
    """`base` without anybody's settings of ours, and with these."""
    kept = {name: value for name, value in base.items() if not name.startswith(ENV_PREFIX)}
    return kept | {ENV_PREFIX + name.upper(): str(value) for name, value in settings.items()}
