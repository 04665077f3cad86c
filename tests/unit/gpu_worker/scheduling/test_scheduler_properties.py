"""Whatever arrives, aborts, resumes, preempts and fails in whatever order: nothing leaks, everybody finishes once.

That a suspect never has company is what the runner checks in every batch.
"""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_worker.scheduling.admission import RequestRefusedError
from gpu_worker.scheduling.sequence import Sequence, SequenceState
from tests.unit.gpu_worker.builders import Collector, Rig, make_rig, request

# Few different tokens and few lengths, so that prefixes meet.
_prompts = st.tuples(st.sampled_from((1, 2)), st.integers(1, 14))
_arrival = st.tuples(
    st.just("add"),
    _prompts,
    st.integers(1, 3),
    st.integers(0, 12),
    st.sampled_from((0, 0, 3)),
    st.booleans(),
    st.booleans(),
)
_step = st.tuples(st.just("step"), st.integers(1, 4))
_abort = st.tuples(st.just("abort"), st.integers(0, 20), st.none() | st.integers(0, 2))
_failure = st.tuples(st.just("fail"), st.sampled_from(("launch", "result")))
_operations = st.lists(_arrival | _step | _abort | _failure | st.just(("flush",)), min_size=4, max_size=24)
_rigs = st.fixed_dictionaries(
    {
        "num_pages": st.integers(5, 10),
        "page_size": st.sampled_from((2, 3, 4)),
        "has_prefix_cache": st.booleans(),
        "max_running_requests": st.integers(1, 5),
        "max_prefill_tokens": st.sampled_from((1, 3, 8, 100)),
        "overlaps": st.booleans(),
    }
)


class World:
    """A rig, everything that was added to it, and the checks after every operation."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.collector = Collector()
        self.sequences: list[Sequence] = []
        self.keys: list[int] = []

    def apply(self, operation: tuple[object, ...]) -> None:
        match operation:
            case (
                "add",
                (int(token), int(length)),
                int(n),
                int(max_new),
                int(given),
                bool(ignore_eos),
                bool(is_suspect),
            ):
                prompt = [(token * place) % 7 for place in range(length)]
                asked = request(
                    prompt,
                    n=n,
                    output_ids=(3,) * given,
                    is_suspect=is_suspect,
                    num_tokens_alone=given,
                    max_new_tokens=max_new,
                    ignore_eos=ignore_eos,
                )
                self.keys.append(asked.key)
                try:
                    self.sequences += self.rig.engine.add(asked)
                except RequestRefusedError:
                    self.keys.pop()
            case ("step", int(num_steps)):
                for _ in range(num_steps):
                    self.step()
            case ("abort", int(index), choice):
                if self.keys:
                    key = self.keys[index % len(self.keys)]
                    self.rig.engine.abort(key, choice if isinstance(choice, int) else None)
            case ("fail", "launch" | "result" as moment):
                self.rig.runner.fails_at = moment
                self.step()
            case ("flush",):
                self.rig.engine.flush_prefix_cache()
        self.check()

    def step(self) -> None:
        try:
            result = self.rig.engine.step()
        except ArithmeticError as error:
            result = self.rig.engine.fail_step(error)
        self.collector.take(result)

    def check(self) -> None:
        """The books of the page pool agree with the page tables of the sequences."""
        pool = self.rig.pool
        held = Counter(page for sequence in self.sequences for page in sequence.page_table)
        assert all(pool.references(page) == held[page] for page in range(pool.num_pages))
        assert pool.num_used == len(held)
        assert pool.num_free + pool.num_used + pool.num_cached == pool.num_pages
        for sequence in self.sequences:
            if sequence.state is not SequenceState.RUNNING:
                assert not sequence.page_table
            assert len(set(sequence.page_table)) == len(sequence.page_table)

    def finish(self) -> None:
        for _ in range(2000):
            if not self.rig.engine.has_work:
                break
            self.step()
            self.check()
        assert not self.rig.engine.has_work, "the engine does not come to an end"


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rig_options=_rigs, operations=_operations)
def test_any_interleaving_leaks_nothing_and_finishes_everybody_once(
    rig_options: dict[str, int], operations: list[tuple[object, ...]]
) -> None:
    world = World(make_rig(context_length=24, **rig_options))  # type: ignore[arg-type]
    for operation in operations:
        world.apply(operation)
    world.finish()
    reported = {id_ for id_, outcome in world.collector.outcomes.items() if outcome.finish is not None}
    assert reported == {sequence.sequence_id for sequence in world.sequences}
    assert world.rig.pool.num_used == 0
    assert world.rig.residency.num_free_rows == rig_options["max_running_requests"]
    assert world.rig.engine.flush_prefix_cache()
    assert world.rig.pool.num_free == world.rig.pool.num_pages


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rig_options=_rigs,
    prompts=st.lists(st.tuples(_prompts, st.booleans()), min_size=1, max_size=5),
    max_new=st.integers(1, 9),
)
def test_what_is_generated_does_not_depend_on_company_or_memory(
    rig_options: dict[str, int], prompts: list[tuple[tuple[int, int], bool]], max_new: int
) -> None:
    def generate(together: bool, **options: int) -> list[list[int]]:
        world = World(make_rig(context_length=24, **options))  # type: ignore[arg-type]
        for (token, length), is_suspect in prompts:
            prompt = [(token * place) % 7 for place in range(length)]
            asked = request(prompt, is_suspect=is_suspect and together, num_tokens_alone=2, max_new_tokens=max_new)
            world.sequences += world.rig.engine.add(asked)
            if not together:
                world.finish()
        world.finish()
        return [world.collector.of(sequence).token_ids for sequence in world.sequences]

    big_enough = -(-24 // rig_options["page_size"])
    tight = {**rig_options, "num_pages": max(big_enough, rig_options["num_pages"])}
    assert generate(together=True, **tight) == generate(together=False)
