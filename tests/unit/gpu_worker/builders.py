"""Engines and schedulers for tests, and a runner that samples by arithmetic instead of a model."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from gpu_worker.engine import Engine
from gpu_worker.kv.no_prefix_cache import NoPrefixCache
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.radix_prefix_cache import RadixPrefixCache
from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.batch import Batch, SampledTokens, StepResult, TokenLogprobs
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.scheduler import Scheduler
from gpu_worker.scheduling.sequence import Finish, GenerationRequest, NewSequence, Sequence
from wire.sampling import SamplingParams

EOS = 7
VOCAB_SIZE = 8


def next_token(sequence: Sequence) -> int:
    """A token that depends on all tokens before it, and is sometimes EOS."""
    return (sum(sequence.token_ids) * 31 + sequence.num_tokens * 17 + sequence.choice) % VOCAB_SIZE


@dataclass
class ArithmeticRunner:
    """Stands in for the model. Checks what a model would rely on, and remembers the batches."""

    page_size: int
    rule: Callable[[Sequence], int] = next_token
    batches: list[list[tuple[int, int]]] = field(default_factory=list)

    def execute(self, batch: Batch) -> SampledTokens:
        self.batches.append([(s.sequence.sequence_id, s.num_scheduled_tokens) for s in batch.scheduled])
        for scheduled in batch.scheduled:
            sequence = scheduled.sequence
            end = sequence.num_computed_tokens + scheduled.num_scheduled_tokens
            assert scheduled.num_scheduled_tokens > 0
            assert len(sequence.page_table) * self.page_size >= end, "no slot for a scheduled token"
        assert all(s.num_scheduled_tokens == 1 for s in batch.scheduled[: batch.num_decodes])
        if any(s.sequence.is_suspect for s in batch.scheduled):
            assert len(batch.scheduled) == 1, "a suspect has company"
        return SampledTokens([self.rule(s.sequence) for s in batch.scheduled if s.samples])


@dataclass
class Rig:
    """An engine over an `ArithmeticRunner`, with its pool in view."""

    engine: Engine
    pool: PagePool
    cache: RadixPrefixCache | NoPrefixCache
    runner: ArithmeticRunner
    scheduler: Scheduler

    def add(self, *prompt_ids: int, **options: object) -> Sequence:
        return self.engine.add(request(prompt_ids, **options))[0]


def make_rig(
    *,
    num_pages: int = 64,
    page_size: int = 4,
    has_prefix_cache: bool = True,
    max_running_requests: int = 8,
    max_prefill_tokens: int = 1024,
    context_length: int = 200,
    rule: Callable[[Sequence], int] = next_token,
) -> Rig:
    pool = PagePool(num_pages, page_size)
    cache = RadixPrefixCache(pool) if has_prefix_cache else NoPrefixCache(pool)
    residency = Residency(pool, cache)
    ticks = count(1)
    scheduler = Scheduler(
        residency,
        max_running_requests=max_running_requests,
        max_prefill_tokens=max_prefill_tokens,
        clock_ns=lambda: next(ticks),
    )
    runner = ArithmeticRunner(page_size, rule)
    limits = AdmissionLimits(VOCAB_SIZE, context_length, num_pages * page_size)
    return Rig(Engine(scheduler, runner, residency, limits, frozenset({EOS})), pool, cache, runner, scheduler)


_sequence_ids = count(1)


def request(
    prompt_ids: tuple[int, ...] | list[int],
    *,
    key: int | None = None,
    n: int = 1,
    output_ids: tuple[int, ...] = (),
    is_suspect: bool = False,
    **sampling: object,
) -> GenerationRequest:
    """A request with fresh ids; `sampling` are fields of `SamplingParams`, greedy and 4 tokens by default."""
    parameters = SamplingParams(**{"max_new_tokens": 4, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
    sequences = tuple(NewSequence(next(_sequence_ids), choice, output_ids) for choice in range(n))
    return GenerationRequest(key or next(_sequence_ids), prompt_ids, parameters, sequences, is_suspect=is_suspect)


@dataclass
class Outcome:
    """What was reported of one sequence. `token_ids` are the new ones."""

    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class Collector:
    """Gathers results as a detokenizer does, and checks that they fit together without gap or repetition."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}

    def take(self, result: StepResult) -> None:
        start = 0
        for row, sequence in enumerate(result.sequences):
            outcome = self.outcomes.setdefault(sequence.sequence_id, Outcome())
            assert outcome.finish is None, "a row after the finish"
            new = result.token_ids[start : start + result.counts[row]]
            given = sequence.num_output_tokens - len(outcome.token_ids) - len(new)
            assert result.first_indexes[row] == given + len(outcome.token_ids)
            start += len(new)
            outcome.token_ids += new
            outcome.finish = result.finishes.get(row)
            outcome.logprobs += result.logprobs.get(row, ())
        assert start == len(result.token_ids)

    def of(self, sequence: Sequence) -> Outcome:
        return self.outcomes[sequence.sequence_id]


def run_to_end(engine: Engine, max_steps: int = 10_000) -> Collector:
    """Step until there is nothing left to do."""
    collector = Collector()
    for _ in range(max_steps):
        if not engine.has_work:
            return collector
        collector.take(engine.step())
    raise AssertionError(f"the engine still has work after {max_steps} steps")


def ids(*values: int) -> "array[int]":
    return array("I", values)
