"""The engine and its thread as the event loop sees them: loading, commands in, results out. Knows no bus."""

import asyncio
import concurrent.futures
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpu_worker.engine_thread import Command, EngineLike, EngineThread, FlushPrefixCache
from gpu_worker.execution.device_lost import DeviceLostError
from gpu_worker.scheduling.admission import AdmissionLimits, RequestRefusedError
from gpu_worker.scheduling.batch import StepResult
from gpu_worker.scheduling.sequence import GenerationRequest

log = logging.getLogger(__name__)

_ANNOUNCEMENT_S = 0.5


def end_process(error: Exception) -> None:
    """Die at once: the requests go on elsewhere sooner than if every step of theirs failed here, or none came."""
    if isinstance(error, DeviceLostError):
        log.critical("the device is lost, this worker ends: %s", error)
    else:
        log.critical("the engine's thread has failed, this worker ends", exc_info=error)
    logging.shutdown()
    os._exit(1)


class HostedEngine(EngineLike, Protocol):
    """An engine with its limits and the state of its page pool."""

    @property
    def limits(self) -> AdmissionLimits:
        """What it can serve at all."""
        ...

    @property
    def num_pages(self) -> int:
        """Pages of the KV cache."""
        ...

    @property
    def num_used_pages(self) -> int:
        """Pages that sequences hold."""
        ...

    @property
    def num_cached_pages(self) -> int:
        """Pages that only the prefix cache keeps."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What `load` gives: the engine and what the world may know of its model."""

    engine: HostedEngine
    fingerprint: str
    context_length: int
    page_size: int
    description: dict[str, Any] = field(default_factory=dict)


class EngineHost:
    """Runs one engine in its own thread. Results reach the loop in order, several at a time when it was busy."""

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        on_failure: Callable[[Exception], None],
        on_lost: Callable[[Exception], None] = end_process,
    ) -> None:
        """`load` is called in a thread, since it takes seconds. `on_failure` hears, in the loop, of failed steps, and
        `on_lost`, in the engine's thread, that there will be no step any more."""
        self._load = load
        self._on_failure = on_failure
        self._on_lost = on_lost
        self._model: LoadedModel | None = None
        self._thread: EngineThread | None = None
        self._results: deque[StepResult] = deque()
        self._is_delivery_due = False

    @property
    def loaded(self) -> LoadedModel | None:
        """The model; None until it is loaded."""
        return self._model

    @property
    def engine(self) -> HostedEngine:
        """The loaded engine."""
        assert self._model is not None, "the model is loaded first"
        return self._model.engine

    @property
    def step(self) -> int:
        """Steps so far."""
        return self._thread.step if self._thread else 0

    @property
    def step_age_s(self) -> float:
        """Age of the step in progress; 0 between steps."""
        return self._thread.step_age_s if self._thread else 0.0

    async def start(
        self,
        on_result: Callable[[StepResult], None],
        on_refused: Callable[[int, RequestRefusedError], None],
        on_suspect: Callable[[int], Coroutine[None, None, None]],
    ) -> LoadedModel:
        """Loads the model and starts the thread; all callbacks are called in the loop.

        The thread waits for `on_suspect`, which must not raise, for half a second at most.
        """
        self._model = await asyncio.to_thread(self._load)
        loop = asyncio.get_running_loop()

        def deliver() -> None:
            self._is_delivery_due = False
            try:
                while self._results:
                    on_result(self._results.popleft())
            finally:
                if self._results:  # one could not be taken in; those after it can
                    _call(loop, deliver)

        def from_thread(result: StepResult) -> None:
            # A late flag costs an empty delivery, never a lost one: the result is queued before the flag is read.
            self._results.append(result)
            if not self._is_delivery_due:
                self._is_delivery_due = True
                _call(loop, deliver)

        self._thread = EngineThread(
            self._model.engine,
            on_step=from_thread,
            on_refused=lambda key, error: _call(loop, on_refused, key, error),
            on_failure=lambda error: _call(loop, self._on_failure, error),
            on_suspect=lambda key: _wait_for(loop, on_suspect(key)),
            on_lost=self._on_lost,
        )
        self._thread.start()
        return self._model

    def check(self, request: GenerationRequest) -> None:
        """Raises `RequestRefusedError` for what the engine can never serve."""
        self.engine.limits.check(request)

    def submit(self, *commands: Command) -> None:
        """Hands commands to the thread, in order."""
        assert self._thread is not None, "the engine is started first"
        self._thread.submit(commands)
        # An engine that was asleep begins now, and not when this thread has nothing more to do.
        time.sleep(0)

    async def flush_prefix_cache(self) -> bool:
        """Forgets cached prefixes; False while there are sequences."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()

        def resolve(is_flushed: bool) -> None:
            if not done.done():
                done.set_result(is_flushed)

        self.submit(FlushPrefixCache(lambda is_flushed: _call(loop, resolve, is_flushed)))
        return await done

    def stop(self) -> None:
        """Ends the thread after the step that runs now."""
        if self._thread is not None:
            self._thread.stop(timeout_s=5.0)


def _wait_for(loop: asyncio.AbstractEventLoop, work: Coroutine[None, None, None]) -> None:
    if loop.is_closed():
        work.close()
        return
    with suppress(concurrent.futures.TimeoutError):
        asyncio.run_coroutine_threadsafe(work, loop).result(_ANNOUNCEMENT_S)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *arguments)
