"""Runs the instances of every stage, and stops them in the order of the pipeline."""

import asyncio
import logging
from collections.abc import Sequence

from launcher.keeper import Keeper

log = logging.getLogger(__name__)


class Supervisor:
    """`tiers` are the instances in the order in which they stop: what feeds the others first.

    Invariant: when `run` returns or raises, no process of any tier is left.
    """

    def __init__(self, tiers: Sequence[Sequence[Keeper]], stop_timeout_s: float) -> None:
        """`stop_timeout_s` is how long one tier may take to leave before it is killed."""
        self._tiers = tiers
        self._stop_timeout_s = stop_timeout_s
        self._keeping: dict[Keeper, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._restart: asyncio.Task[None] | None = None
        self.was_killed = False

    @property
    def _keepers(self) -> list[Keeper]:
        return [keeper for tier in self._tiers for keeper in tier]

    async def run(self) -> None:
        """Until `request_stop`, or until a process is given up (`GaveUpError`) or cannot be run at all (OSError)."""
        if self._stop.is_set():
            return
        self._keeping = {keeper: asyncio.create_task(keeper.keep()) for keeper in self._keepers}
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([stop, *self._keeping.values()], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if self._restart is not None:
                self._restart.cancel()
            await self._stop_in_order()
        self._raise_failure()

    async def wait_ready(self) -> None:
        """Returns once every instance has been ready."""
        for keeper in self._keepers:
            await keeper.ready.wait()

    def request_restart(self) -> None:
        """Replaces one instance after the other, the next one only when a successor is ready."""
        if not self._keeping or self._stop.is_set() or (self._restart is not None and not self._restart.done()):
            log.warning("no restart now: the instances are starting, stopping or being restarted")
            return
        self._restart = asyncio.create_task(self._restart_in_turn())

    async def _restart_in_turn(self) -> None:
        """Those that are fed first, so that nobody sends what an older instance does not know."""
        for tier in reversed(self._tiers):
            for keeper in tier:
                log.info("restarting %s", keeper.name)
                await keeper.restart(self._stop_timeout_s)
        log.info("every instance has been restarted")

    def request_stop(self) -> None:
        """Lets every instance finish what it holds, tier by tier. The second request kills them all."""
        if self._stop.is_set():
            log.warning("killing every process")
            self.kill()
        self._stop.set()

    def kill(self) -> None:
        """Ends every process at once, whatever it was doing."""
        self.was_killed = True
        for keeper in self._keepers:
            keeper.kill()

    async def _stop_in_order(self) -> None:
        for tier in self._tiers:
            for keeper in tier:
                keeper.stop()
            tasks = [self._keeping[keeper] for keeper in tier]
            if tasks:
                await self._leave_or_kill(tier, tasks)

    async def _leave_or_kill(self, tier: Sequence[Keeper], tasks: Sequence["asyncio.Task[None]"]) -> None:
        _, late = await asyncio.wait(tasks, timeout=self._stop_timeout_s)
        if late:
            names = ", ".join(keeper.name for keeper in tier if not self._keeping[keeper].done())
            log.warning("%s did not leave within %g s: killed", names, self._stop_timeout_s)
            for keeper in tier:
                keeper.kill()
            await asyncio.wait(late)

    def _raise_failure(self) -> None:
        failures = [failure for task in self._keeping.values() if (failure := task.exception()) is not None]
        for failure in failures[1:]:
            log.error("%s", failure)
        if failures:
            raise failures[0]
