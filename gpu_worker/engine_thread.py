"""The thread that runs an engine's steps. Commands go in and results come out as whole batches. Knows no torch.

The thread sleeps while there is nothing to do, and survives a step that fails.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from gpu_worker.execution.device_lost import DeviceLostError
from gpu_worker.scheduling.admission import RequestRefusedError
from gpu_worker.scheduling.batch import StepResult
from gpu_worker.scheduling.sequence import GenerationRequest, Sequence


class EngineLike(Protocol):
    """What the thread needs of an engine. All of it is called in the thread, but for `waiting` and `running`."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do or report anything."""
        ...

    def step(self, announce: Callable[[int], object]) -> StepResult:
        """Run what is due, and say what came of it. `announce` gets the key of a suspect before its prefill begins."""
        ...

    def fail_step(self, error: Exception) -> StepResult:
        """After `step` has raised: end the sequences that were in it."""
        ...

    def add(self, request: GenerationRequest) -> list[Sequence]:
        """Queue the sequences of a request. Raises `RequestRefusedError`."""
        ...

    def abort(self, key: int, choice: int | None = None) -> int:
        """End the sequences of a request; the next step reports them."""
        ...

    def flush_prefix_cache(self) -> bool:
        """Forget cached prefixes; False while there are sequences."""
        ...

    def waiting(self) -> list[Sequence]:
        """The queue, in order."""
        ...

    def running(self) -> list[Sequence]:
        """The running sequences."""
        ...


@dataclass(frozen=True, slots=True)
class Add:
    """Queue a request; if it is refused, `on_refused` of the thread hears of it."""

    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Abort:
    """End a request, or one choice of it. An unknown key is no error: the request may just have finished."""

    key: int
    choice: int | None = None


@dataclass(frozen=True, slots=True)
class FlushPrefixCache:
    """Forget cached prefixes; `on_done` hears, in the thread, whether it was done."""

    on_done: Callable[[bool], None]


Command = Add | Abort | FlushPrefixCache


class EngineThread:
    """Owns the engine from `start` to `stop`. All callbacks are called in the thread, and must not raise.

    `on_step` gets every result; `on_refused` the key of a request that `add` refused; `on_failure` the error of a
    step that raised, before `on_step` gets the result that ends its sequences. `on_suspect` gets the key of a suspect
    whose turn has come; when it returns, the prefill begins that may be this process's end. `on_lost` hears why there
    will be no step any more, as the device is lost or a bug was met outside of a step; the thread ends after it.
    """

    def __init__(
        self,
        engine: EngineLike,
        *,
        on_step: Callable[[StepResult], None],
        on_refused: Callable[[int, RequestRefusedError], None],
        on_failure: Callable[[Exception], None],
        on_suspect: Callable[[int], None] = lambda key: None,
        on_lost: Callable[[Exception], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._on_step = on_step
        self._on_refused = on_refused
        self._on_failure = on_failure
        self._on_suspect = on_suspect
        self._on_lost = on_lost
        self._clock = clock
        self._wake = threading.Condition()
        self._commands: list[Command] = []
        self._is_stopping = False
        self._step_began: float | None = None
        self._num_steps = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def step(self) -> int:
        """How many steps have ended."""
        return self._num_steps

    @property
    def step_age_s(self) -> float:
        """For how long the step that runs now has been running; 0 between steps.

        A thread that has died counts as a step that never ends, so that whoever watches for hangs sees it.
        """
        began = self._step_began
        return 0.0 if began is None else self._clock() - began

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def submit(self, commands: Iterable[Command]) -> None:
        """Hand over commands; they are applied in order before the next step."""
        with self._wake:
            self._commands.extend(commands)
            self._wake.notify()

    def stop(self, timeout_s: float | None = None) -> bool:
        """End after the step that runs now; commands not yet applied are dropped. False if it did not end in time."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - nothing in here can be trusted any more
            self._step_began = self._clock()
            self._on_lost(error)

    def _serve(self) -> None:
        while not self._is_stopping:
            for command in self._next_commands():
                self._apply(command)
            if self._engine.has_work and not self._is_stopping:
                self._on_step(self._timed_step())

    def _next_commands(self) -> list[Command]:
        """The commands that have come; waits for one if the engine has nothing to do."""
        with self._wake:
            while not (self._commands or self._engine.has_work or self._is_stopping):
                self._wake.wait()
            commands, self._commands = self._commands, []
            return commands

    def _apply(self, command: Command) -> None:
        match command:
            case Add(request):
                self._add(request)
            case Abort(key, choice):
                self._engine.abort(key, choice)
            case FlushPrefixCache(on_done):
                on_done(self._engine.flush_prefix_cache())

    def _add(self, request: GenerationRequest) -> None:
        try:
            self._engine.add(request)
        except RequestRefusedError as error:
            self._on_refused(request.key, error)

    def _timed_step(self) -> StepResult:
        self._step_began = self._clock()
        try:
            return self._engine.step(self._on_suspect)
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - the one place where a failed step becomes terminal messages
            self._on_failure(error)
            return self._engine.fail_step(error)
        finally:
            self._step_began = None
            self._num_steps += 1
