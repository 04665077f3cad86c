"""What a process does all the time beside its messages: without any of it, the process is of no use and must end."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class BackgroundTaskError(Exception):
    """A task that was to run until the end has failed; the cause says why."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the background task {name} has failed")


class BackgroundTasks:
    """Tasks whose failure ends `guard`, and with it the process: it is started again, and its peers repair the rest.

    A process that went on without its heartbeats, say, or without its sender would hold up whoever trusts it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_failed = asyncio.Event()
        self._failure: BackgroundTaskError | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` until it ends, fails or is cancelled."""
        task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def stop(self) -> None:
        """Cancels what is left, and waits for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def guard(self, main: Coroutine[Any, Any, None]) -> None:
        """Runs `main` to its end; if a background task fails first, cancels it and raises `BackgroundTaskError`."""
        running, failing = asyncio.create_task(main), asyncio.create_task(self._has_failed.wait())
        try:
            await asyncio.wait({running, failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            running.cancel()
            failing.cancel()
            await asyncio.gather(running, failing, return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        running.result()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("the background task %s has failed: %r", task.get_name(), error)
        if self._failure is None:
            self._failure = BackgroundTaskError(task.get_name())
            self._failure.__cause__ = error
            self._has_failed.set()
