"""The engine without a model behaves as the real one where the pipeline can see it."""

from gpu_worker.scheduling.sequence import Finish
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from tests.unit.gpu_worker.builders import Collector, request


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.slept_s: list[float] = []

    def clock_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_ns += round(seconds * 1e9)


def make_engine(**options: float) -> tuple[SyntheticEngine, FakeTime]:
    time = FakeTime()
    chosen = SyntheticOptions(**{"vocab_size": 1000, "first_token_id": 10, **options})  # type: ignore[arg-type]
    return SyntheticEngine(chosen, clock_ns=time.clock_ns, sleep=time.sleep), time


def collect(engine: SyntheticEngine) -> Collector:
    collector = Collector()
    while engine.has_work:
        collector.take(engine.step())
    return collector


def test_every_sequence_gets_a_token_per_step() -> None:
    engine, _ = make_engine()
    for prompt in ([1], [2, 3]):
        engine.add(request(prompt, n=2))
    assert engine.step().counts == [1, 1, 1, 1]


def test_ids_are_deterministic_and_within_the_range() -> None:
    def generate() -> list[int]:
        engine, _ = make_engine()
        sequence = engine.add(request([1], max_new_tokens=500))[0]
        return collect(engine).of(sequence).token_ids

    first = generate()
    assert first == generate()
    assert all(10 <= token_id < 1000 for token_id in first)
    assert len(set(first)) > 300


def test_a_resume_goes_on_with_the_same_ids() -> None:
    engine, _ = make_engine()
    whole = engine.add(request([1], max_new_tokens=9))[0]
    resumed = engine.add(request([1], max_new_tokens=9, output_ids=(1, 2, 3, 4)))[0]
    collector = collect(engine)
    assert collector.of(resumed).token_ids == collector.of(whole).token_ids[4:]
    assert collector.of(resumed).finish == Finish("length")


def test_steps_keep_their_interval_however_long_the_work_between_them_takes() -> None:
    engine, time = make_engine(step_interval_s=0.005)
    engine.add(request([1], max_new_tokens=4))
    engine.step()
    time.now_ns += 2_000_000
    engine.step()
    engine.step()
    assert [round(seconds, 6) for seconds in time.slept_s] == [0.003, 0.005]


def test_aborted_finished_and_empty_requests_end_once() -> None:
    engine, _ = make_engine()
    aborted = engine.add(request([1], max_new_tokens=50))[0]
    none_wanted = engine.add(request([1], max_new_tokens=0))[0]
    engine.step()
    engine.abort(aborted.key)
    assert (aborted.finish, none_wanted.finish) == (Finish("abort"), Finish("length"))
    assert [r.finish for r in collect(engine).outcomes.values()] == [Finish("abort")]
    assert not engine.running()
