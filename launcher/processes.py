"""One child process: started in a session of its own, its output read line by line, its end awaited.

Its own session, because a Ctrl-C in the terminal is for the launcher, which stops the stages in order. A pipe on its
standard input, because that closes however the launcher dies.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
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

    def __init__(self, spec: ProcessSpec, show: Callable[[OutputLine], None]) -> None:
        """Starts it; `show` gets every line of its standard output and error. Raises OSError if it cannot be run."""
        # No pipe: under uvloop its descriptor is closed twice, the second time when a successor has it.
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                self._child = subprocess.Popen(  # noqa: S603  # the launcher's own command line
                    spec.command,
                    env=spec.environment,
                    stdin=subprocess.PIPE,
                    stdout=theirs.fileno(),
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=spec.inherited_fds,
                )
            except OSError:
                ours.close()
                raise
        loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = loop.create_future()
        # A thread, because asyncio's own `wait` also waits for the pipes, which a grandchild may hold open for ever.
        threading.Thread(target=self._await_end, args=(loop,), daemon=True).start()
        self._output = asyncio.create_task(_read_output(ours, show))

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._child.pid

    async def wait(self) -> int:
        """Its exit status (-n for signal n), once all of its output has been shown."""
        status = await asyncio.shield(self._status)
        self.kill()  # what it started and left behind
        await self._output
        assert self._child.stdin is not None
        self._child.stdin.close()
        return status

    def terminate(self) -> None:
        """Asks it to finish its work and leave. A process that is gone already is fine."""
        self._child.terminate()

    def kill(self) -> None:
        """Ends it at once, and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _await_end(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(self._status.set_result, self._child.wait())


async def _read_output(output: socket.socket, show: Callable[[OutputLine], None]) -> None:
    loop = asyncio.get_running_loop()
    splitter = LineSplitter()
    with output:
        while chunk := await loop.sock_recv(output, _READ_BYTES):
            for line in splitter.feed(chunk):
                show(line)
    for line in splitter.feed(b"", is_last=True):
        show(line)


def describe_status(status: int) -> str:
    """The exit status in words."""
    return f"exited with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
