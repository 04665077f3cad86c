"""The engine's thread: it sleeps, wakes, survives failures and stops. Waits for events, never for time."""

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpu_worker.engine_thread import Abort, Add, EngineLike, EngineThread, FlushPrefixCache
from gpu_worker.execution.device_lost import DeviceLostError
from gpu_worker.scheduling.admission import RequestRefusedError
from gpu_worker.scheduling.batch import StepResult
from gpu_worker.scheduling.sequence import Finish, Sequence
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from tests.unit.gpu_worker.builders import make_rig, request

TIMEOUT_S = 10


class Events:
    """What the thread's callbacks have said, to be waited for."""

    def __init__(self) -> None:
        self.results: queue.Queue[StepResult] = queue.Queue()
        self.refused: queue.Queue[tuple[int, RequestRefusedError]] = queue.Queue()
        self.failures: queue.Queue[Exception] = queue.Queue()

    def thread(self, engine: EngineLike, **options: Any) -> EngineThread:
        return EngineThread(
            engine,
            on_step=self.results.put,
            on_refused=lambda key, error: self.refused.put((key, error)),
            on_failure=self.failures.put,
            **options,
        )

    def finishes(self, count: int) -> dict[int, Finish]:
        """The next `count` finishes, by request key."""
        found: dict[int, Finish] = {}
        while len(found) < count:
            result = self.results.get(timeout=TIMEOUT_S)
            found.update({result.sequences[row].key: finish for row, finish in result.finishes.items()})
        return found


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def start(events: Events) -> Iterator[Callable[..., EngineThread]]:
    threads: list[EngineThread] = []

    def starter(engine: EngineLike, **options: Any) -> EngineThread:
        thread = events.thread(engine, **options)
        threads.append(thread)
        thread.start()
        return thread

    yield starter
    for thread in threads:
        assert thread.stop(TIMEOUT_S)


@pytest.fixture(params=["engine", "synthetic"])
def engine(request: pytest.FixtureRequest) -> EngineLike:
    if request.param == "engine":
        return make_rig(rule=lambda _: 1).engine
    return SyntheticEngine(SyntheticOptions(vocab_size=8))


def test_requests_that_are_submitted_are_finished(
    engine: EngineLike, events: Events, start: Callable[..., EngineThread]
) -> None:
    thread = start(engine)
    asked = [request([1, 2, 3]) for _ in range(3)]
    thread.submit(Add(one) for one in asked)
    assert events.finishes(3) == {one.key: Finish("length") for one in asked}
    # And again, after it has slept.
    thread.submit([Add(late := request([1]))])
    assert events.finishes(1) == {late.key: Finish("length")}


def test_an_abort_ends_a_request(engine: EngineLike, events: Events, start: Callable[..., EngineThread]) -> None:
    asked = request([1], max_new_tokens=150)
    thread = start(engine)
    thread.submit([Add(asked), Abort(asked.key)])
    assert events.finishes(1) == {asked.key: Finish("abort")}


def test_a_refused_request_is_reported_and_the_others_run(
    engine: EngineLike, events: Events, start: Callable[..., EngineThread]
) -> None:
    bad, good = request([99]), request([1])
    start(engine).submit([Add(bad), Add(good)])
    key, error = events.refused.get(timeout=TIMEOUT_S)
    assert (key, error.limit, error.value) == (bad.key, 8, 99)
    assert events.finishes(1) == {good.key: Finish("length")}


def test_a_flush_answers(engine: EngineLike, start: Callable[..., EngineThread]) -> None:
    answers: queue.Queue[bool] = queue.Queue()
    start(engine).submit([FlushPrefixCache(answers.put), Add(request([1])), FlushPrefixCache(answers.put)])
    assert answers.get(timeout=TIMEOUT_S) is True
    assert answers.get(timeout=TIMEOUT_S) is False


def test_a_failing_step_ends_its_sequences_and_the_thread_goes_on(
    events: Events, start: Callable[..., EngineThread]
) -> None:
    def poisoned(sequence: Sequence) -> int:
        if sequence.token_ids[0] == 6:
            raise ArithmeticError("bad prompt")
        return 1

    bad, good = request([6]), request([1])
    thread = start(make_rig(rule=poisoned, max_running_requests=1).engine)
    thread.submit([Add(bad), Add(good)])
    finishes = events.finishes(2)
    assert isinstance(events.failures.get(timeout=TIMEOUT_S), ArithmeticError)
    assert finishes[bad.key] == Finish("error", message="ArithmeticError: bad prompt")
    assert finishes[good.key] == Finish("length")
    assert thread.is_alive


def test_of_a_suspect_it_is_said_that_its_turn_has_come_and_not_before(
    events: Events, start: Callable[..., EngineThread]
) -> None:
    heard: list[object] = []

    def listen(sequence: Sequence) -> int:
        heard.append(sequence.key if sequence.num_output_tokens == 0 else "decode")
        return 1

    innocent = request([1, 2], max_new_tokens=1)
    suspects = [request([3, 4], max_new_tokens=1, is_suspect=True, n=n) for n in (1, 2)]
    thread = start(
        make_rig(rule=listen, max_running_requests=1).engine,
        on_suspect=lambda key: heard.append(("announced", key)),
    )
    thread.submit([Add(innocent), *map(Add, suspects)])
    events.finishes(3)
    first, second = (suspect.key for suspect in suspects)
    of_a_choice = [("announced", second), second]
    assert heard == [innocent.key, ("announced", first), first, *of_a_choice, *of_a_choice]


def test_a_suspect_that_waits_behind_another_is_not_announced(
    events: Events, start: Callable[..., EngineThread]
) -> None:
    heard: list[object] = []

    def listen(sequence: Sequence) -> int:
        heard.append((sequence.key, sequence.num_output_tokens))
        return 1

    long, short = request([1] * 9, max_new_tokens=2, is_suspect=True), request([3], max_new_tokens=1, is_suspect=True)
    thread = start(
        make_rig(rule=listen, max_prefill_tokens=3).engine,
        on_suspect=lambda key: heard.append(("announced", key)),
    )
    thread.submit([Add(long), Add(short)])
    events.finishes(2)
    assert heard.index(("announced", short.key)) > heard.index((long.key, 0)), "not while the other one prefills"
    assert heard.index(("announced", short.key)) + 1 == heard.index((short.key, 0))
    assert heard.count(("announced", long.key)) == heard.count(("announced", short.key)) == 1


def test_a_suspect_that_was_aborted_is_not_announced(events: Events, start: Callable[..., EngineThread]) -> None:
    announced: list[int] = []
    asked = request([1], is_suspect=True)
    start(make_rig(rule=lambda _: 1).engine, on_suspect=announced.append).submit([Add(asked), Abort(asked.key)])
    assert events.finishes(1) == {asked.key: Finish("abort")}
    assert announced == []


def test_a_step_has_an_age_while_it_runs_and_none_after(events: Events, start: Callable[..., EngineThread]) -> None:
    now, entered, leave = [100.0], threading.Event(), threading.Event()

    def slow(_: Sequence) -> int:
        entered.set()
        assert leave.wait(TIMEOUT_S)
        return 1

    thread = start(make_rig(rule=slow).engine, clock=lambda: now[0])
    assert (thread.step, thread.step_age_s) == (0, 0.0)
    thread.submit([Add(request([1], max_new_tokens=1))])
    assert entered.wait(TIMEOUT_S)
    now[0] = 107.0
    assert thread.step_age_s == 7.0
    leave.set()
    events.finishes(1)
    assert (thread.step, thread.step_age_s) == (1, 0.0)


def test_an_error_outside_of_a_step_ends_the_thread_and_looks_like_a_hang(
    start: Callable[..., EngineThread],
) -> None:
    class Broken(SyntheticEngine):
        def abort(self, key: int, choice: int | None = None) -> int:
            raise LookupError(f"request {key} is in two places")

    now, lost = [100.0], queue.Queue[Exception]()
    thread = start(Broken(SyntheticOptions(vocab_size=8)), clock=lambda: now[0], on_lost=lost.put)
    thread.submit([Abort(5)])
    assert isinstance(lost.get(timeout=TIMEOUT_S), LookupError)
    now[0] = 190.0
    assert thread.step_age_s == 90.0


def test_a_lost_device_ends_the_thread_and_is_no_failure_of_a_request(
    events: Events, start: Callable[..., EngineThread]
) -> None:
    def gone(_: Sequence) -> int:
        raise DeviceLostError("an illegal memory access")

    lost: queue.Queue[Exception] = queue.Queue()
    thread = start(make_rig(rule=gone).engine, on_lost=lost.put)
    thread.submit([Add(request([1]))])
    assert "illegal" in str(lost.get(timeout=TIMEOUT_S))
    assert events.failures.empty()
    assert events.results.empty()


def test_it_stops_in_the_middle_of_work(engine: EngineLike, events: Events) -> None:
    thread = events.thread(engine)
    thread.start()
    thread.submit([Add(request([1], max_new_tokens=190))])
    events.results.get(timeout=TIMEOUT_S)
    assert thread.stop(TIMEOUT_S)
    assert not thread.is_alive


def test_neither_the_thread_nor_the_synthetic_engine_imports_torch() -> None:
    modules = "gpu_worker.engine_thread, gpu_worker.synthetic, gpu_worker.step_log"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
