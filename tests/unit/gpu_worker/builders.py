"""Engines and schedulers for tests, and a runner that samples by arithmetic instead of a model."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from gpu_worker.engine import Engine
from gpu_worker.kv.no_prefix_cache import NoPrefixCache
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.radix_prefix_cache import RadixPrefixCache
from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.batch import Batch, SampledTokens, ScheduledSequence, StepResult, TokenLogprobs
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
    """Stands in for the model. Checks what a model would rely on, and remembers the batches.

    Like a device it knows the tokens that it has sampled before the scheduler does, and goes on from them. With
    `fails_at` the next step fails, when it is launched or when its tokens are read.
    """

    page_size: int
    rule: Callable[[Sequence], int] = next_token
    fails_at: Literal["launch", "result"] | None = None
    batches: list[list[tuple[int, int]]] = field(default_factory=list)
    _tokens: dict[int, "array[int]"] = field(default_factory=dict)
    _computed: dict[int, int] = field(default_factory=dict)
    _tables: dict[int, tuple[Sequence, list[int]]] = field(default_factory=dict)

    def launch(self, batch: Batch) -> "Sampled":
        fails_at, self.fails_at = self.fails_at, None
        if fails_at == "launch":
            raise ArithmeticError("cannot begin")
        if batch.run is not None:
            assert self.batches, "there is a batch to repeat"
            assert [s.sequence.sequence_id for s in batch.scheduled] == [id_ for id_, _ in self.batches[-1]]
        self.batches.append([(s.sequence.sequence_id, s.num_scheduled_tokens) for s in batch.scheduled])
        assert all(s.num_scheduled_tokens == 1 for s in batch.scheduled[: batch.num_decodes])
        if any(s.sequence.is_suspect for s in batch.scheduled):
            assert len(batch.scheduled) == 1, "a suspect has company"
        rows = [s.sequence.table_row for s in batch.scheduled]
        assert len(set(rows)) == len(rows), "two sequences share a table row"
        devices = [self._run(scheduled, batch) for scheduled in batch.scheduled]
        return Sampled(devices, self.rule, is_lost=fails_at == "result")

    def _run(self, scheduled: ScheduledSequence, batch: Batch) -> "_Device":
        sequence, id_ = scheduled.sequence, scheduled.sequence.sequence_id
        known = self._tokens.setdefault(id_, array("I"))
        known.extend(sequence.token_ids[len(known) :])
        start = self._computed[id_] if batch.run is not None else sequence.num_computed_tokens
        end = self._computed[id_] = start + scheduled.num_scheduled_tokens
        if batch.run is None or sequence in batch.grown:
            self._synchronise(sequence)
        owner, table = self._tables[sequence.table_row]
        assert owner is sequence, "the table row is somebody else's"
        assert table == sequence.page_table.tolist(), "the device has old pages"
        assert len(table) * self.page_size >= end, "no slot for a scheduled token"
        assert end <= len(known), "a token is computed before it is sampled"
        assert scheduled.samples == (end == len(known) and sequence.max_new_tokens > 0)
        return _Device(sequence, known, end if scheduled.samples else None)

    def _synchronise(self, sequence: Sequence) -> None:
        if not sequence.is_on_device:
            self._tables[sequence.table_row] = (sequence, [])
            sequence.is_on_device = True
        _, table = self._tables[sequence.table_row]
        del table[sequence.num_synced_pages :]
        table.extend(sequence.page_table[sequence.num_synced_pages :])
        sequence.num_synced_pages = len(table)


@dataclass
class _Device:
    """What a device has of a sequence in a step; `end` is where it samples, if it does."""

    sequence: Sequence
    known: "array[int]"
    end: int | None


class Sampled:
    """A step under way: its tokens are sampled at once, as a view of the sequence that knows them all."""

    def __init__(self, devices: list[_Device], rule: Callable[[Sequence], int], *, is_lost: bool = False) -> None:
        self._is_lost = is_lost
        self._token_ids = []
        for device in devices:
            if device.end is not None:
                view = replace(device.sequence, token_ids=device.known[: device.end], num_pending_tokens=0)
                self._token_ids.append(rule(view))
                device.known.append(self._token_ids[-1])

    def result(self) -> SampledTokens:
        if self._is_lost:
            raise ArithmeticError("the tokens are lost")
        return SampledTokens(self._token_ids)


@dataclass
class Rig:
    """An engine over an `ArithmeticRunner`, with its pool in view."""

    engine: Engine
    pool: PagePool
    residency: Residency
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
    overlaps: bool = False,
) -> Rig:
    pool = PagePool(num_pages, page_size)
    cache = RadixPrefixCache(pool) if has_prefix_cache else NoPrefixCache(pool)
    residency = Residency(pool, cache, max_running_requests)
    ticks = count(1)
    scheduler = Scheduler(
        residency,
        max_running_requests=max_running_requests,
        max_prefill_tokens=max_prefill_tokens,
        has_runs=overlaps,
        clock_ns=lambda: next(ticks),
    )
    runner = ArithmeticRunner(page_size, rule)
    limits = AdmissionLimits(VOCAB_SIZE, context_length, num_pages * page_size)
    engine = Engine(scheduler, runner, residency, limits, frozenset({EOS}), overlaps=overlaps)
    return Rig(engine, pool, residency, cache, runner, scheduler)


_sequence_ids = count(1)


def request(
    prompt_ids: tuple[int, ...] | list[int],
    *,
    key: int | None = None,
    n: int = 1,
    output_ids: tuple[int, ...] = (),
    is_suspect: bool = False,
    num_tokens_alone: int = 0,
    **sampling: object,
) -> GenerationRequest:
    """A request with fresh ids; `sampling` are fields of `SamplingParams`, greedy and 4 tokens by default."""
    parameters = SamplingParams(**{"max_new_tokens": 4, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
    sequences = tuple(NewSequence(next(_sequence_ids), choice, output_ids) for choice in range(n))
    return GenerationRequest(
        key or next(_sequence_ids),
        prompt_ids,
        parameters,
        sequences,
        is_suspect=is_suspect,
        num_tokens_alone=num_tokens_alone,
    )


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
