"""Keeps one process running: starts it, starts it again when it dies, gives up on one that never gets ready."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from launcher.output import OutputLine
from launcher.processes import Process, ProcessSpec, describe_status

log = logging.getLogger(__name__)

USAGE_ERROR = 2
_NUM_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long to wait before the next start: `first_delay_s`, then twice that each time, up to `max_delay_s`.

    A process that ran for `stable_s` starts again from the first delay. One that ended `max_failed_starts` times
    without ever having been ready is given up; so is, at once, one whose exit status says that its settings are wrong.
    """

    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    stable_s: float = 20.0
    max_failed_starts: int = 3

    def delay_s(self, num_short_lives: int) -> float:
        """Before the start that follows this many short lives in a row."""
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** min(num_short_lives - 1, 16))


class GaveUpError(Exception):
    """A process does not get ready, however often it is started; the message ends with its last lines."""


class Keeper:
    """One instance across its lives. `is_ready_line` recognises the line by which it says that it is ready."""

    def __init__(
        self,
        name: str,
        make_spec: Callable[[], ProcessSpec],
        show: Callable[[str, OutputLine], None],
        is_ready_line: Callable[[str], bool],
        policy: RestartPolicy | None = None,
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._make_spec = make_spec
        self._show = show
        self._is_ready_line = is_ready_line
        self._policy = policy or RestartPolicy()
        self._process: Process | None = None
        self._is_stopping = asyncio.Event()
        self._is_restarting = False
        self._has_been_ready = False
        self._last_lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)

    @property
    def pid(self) -> int | None:
        """Process id of the current life, if there is one."""
        return self._process.pid if self._process else None

    async def keep(self) -> None:
        """Returns after `stop`; raises `GaveUpError`."""
        loop = asyncio.get_running_loop()
        num_short_lives = 0
        while not self._is_stopping.is_set():
            started_at = loop.time()
            status = await self._live()
            if self._is_stopping.is_set():
                return
            if self._is_restarting:
                self._is_restarting, num_short_lives = False, 0
                continue
            is_stable = loop.time() - started_at >= self._policy.stable_s
            num_short_lives = 1 if is_stable else num_short_lives + 1
            self._judge(status, num_short_lives)
            await self._pause(status, self._policy.delay_s(num_short_lives))

    async def _live(self) -> int:
        self._last_lines.clear()
        self._process = Process(self._make_spec(), self._on_line)
        if self._is_stopping.is_set():
            self._process.terminate()
        try:
            return await self._process.wait()
        finally:
            self._process = None

    def _on_line(self, line: OutputLine) -> None:
        if not (self.ready.is_set() or self._is_restarting) and self._is_ready_line(line.text):
            self._has_been_ready = True
            self.ready.set()
        if line.text.strip():
            self._last_lines.append(line.text)
        self._show(self.name, line)

    def _judge(self, status: int, num_short_lives: int) -> None:
        is_hopeless = status == USAGE_ERROR or num_short_lives >= self._policy.max_failed_starts
        if is_hopeless and not self._has_been_ready:
            times = "" if num_short_lives == 1 else f" ({num_short_lives} times)"
            last = "".join(f"\n  {line}" for line in self._last_lines)
            raise GaveUpError(f"{self.name} {describe_status(status)} before it was ready{times}:{last}")

    async def _pause(self, status: int, delay_s: float) -> None:
        log.warning("%s %s, starting it again in %.1f s", self.name, describe_status(status), delay_s)
        try:
            async with asyncio.timeout(delay_s):
                await self._is_stopping.wait()
        except TimeoutError:
            return

    async def restart(self, stop_timeout_s: float) -> None:
        """Asks the process to leave, kills it if it does not in time, and returns when its successor is ready."""
        process = self._process
        self.ready.clear()
        if process is None:  # it died, and starts again by itself
            await self.ready.wait()
            return
        self._is_restarting = True
        process.terminate()

        def kill_if_still_there() -> None:
            if self._process is process:
                log.warning("%s did not leave within %g s: killed", self.name, stop_timeout_s)
                process.kill()

        patience = asyncio.get_running_loop().call_later(stop_timeout_s, kill_if_still_there)
        try:
            await self.ready.wait()
        finally:
            patience.cancel()

    def stop(self) -> None:
        """Asks the process to leave; `keep` returns once it has."""
        self._is_stopping.set()
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Ends the process at once."""
        self._is_stopping.set()
        if self._process is not None:
            self._process.kill()


@asynccontextmanager
async def kept(keeper: Keeper, stop_timeout_s: float) -> AsyncIterator[None]:
    """Keeps a process for the length of the block, which begins when it is ready; raises what `keep` raises."""
    keeping = asyncio.create_task(keeper.keep())
    ready = asyncio.create_task(keeper.ready.wait())
    try:
        await asyncio.wait([keeping, ready], return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
        yield
    finally:
        ready.cancel()
        keeper.stop()
        _, late = await asyncio.wait([keeping], timeout=stop_timeout_s)
        if late:
            keeper.kill()
            await keeping
