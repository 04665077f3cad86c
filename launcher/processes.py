"""One child process: started in a session of its own, its output read line by line, its end awaited.

Its own session, because a Ctrl-C in the terminal is for the launcher, which stops the stages in order. A pipe on its
standard input, because that closes however the launcher dies.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from launcher.output import LineSplitter, OutputLine

_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start. `environment` is the whole environment; secrets travel there and never in `command`."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited_fds: tuple[int, ...] = ()


class Process:
    """A running child. Whatever it started itself ends with it."""

    def __init__(self, child: asyncio.subprocess.Process, show: Callable[[OutputLine], None]) -> None:
        self._child = child
        self._output = asyncio.create_task(self._read_output(show))

    @classmethod
    async def start(cls, spec: ProcessSpec, show: Callable[[OutputLine], None]) -> "Process":
        """Starts it; `show` gets every line of its standard output and error. Raises OSError if it cannot be run."""
        child = await asyncio.create_subprocess_exec(
            *spec.command,
            env=spec.environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
            pass_fds=spec.inherited_fds,
        )
        return cls(child, show)

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._child.pid

    async def wait(self) -> int:
        """Its exit status (-n for signal n), once all of its output has been shown."""
        status = await self._child.wait()
        self.kill()  # what it started and left behind
        await self._output
        return status

    def terminate(self) -> None:
        """Asks it to finish its work and leave. A process that is gone already is fine."""
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()

    def kill(self) -> None:
        """Ends it at once, and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _read_output(self, show: Callable[[OutputLine], None]) -> None:
        assert self._child.stdout is not None
        splitter = LineSplitter()
        while chunk := await self._child.stdout.read(_READ_BYTES):
            for line in splitter.feed(chunk):
                show(line)
        for line in splitter.feed(b"", is_last=True):
            show(line)


def describe_status(status: int) -> str:
    """The exit status in words."""
    return f"exited with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
