"""Who runs in the next step. First come, first served; decodes always, prefills in chunks within a budget.

A suspect, over which a worker may have crashed, prefills in steps of its own, so that it takes nobody along, and so it
decodes for as long as it is one; every other step is for the rest.

A step is scheduled, dispatched when its execution has begun, and committed when its tokens are known; the next one may
be scheduled and dispatched before that. So whoever stops is noticed when one more step of it is under way, whose token
is dropped.

Invariants: a running sequence holds pages for all its tokens but perhaps the last; a waiting or finished one
holds none. Every sequence that was added is finished exactly once.
"""

import time
from bisect import insort
from collections.abc import Callable

from gpu_worker.scheduling.batch import Batch, SampledTokens, StepResult, StepStats
from gpu_worker.scheduling.decode_run import DecodeRun
from gpu_worker.scheduling.finish import LENGTH, finish_of, finish_of_given
from gpu_worker.scheduling.plan import Plan
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.sequence import Finish, Sequence, SequenceState

ABORTED = Finish("abort")


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _awaits_its_end(sequence: Sequence) -> bool:
    return not sequence.is_prefilling and sequence.num_unsampled_tokens <= 0


def _may_prefill_alone(sequence: Sequence) -> bool:
    return sequence.is_suspect and not sequence.num_pending_tokens


class Scheduler:
    """Holds every unfinished sequence, waiting or running, both sorted by rank (resumed first, then arrival)."""

    def __init__(
        self,
        residency: Residency,
        *,
        max_running_requests: int,
        max_prefill_tokens: int,
        has_runs: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`has_runs` says that the runner can repeat a batch (see `DecodeRun`)."""
        self._residency = residency
        self._max_running = max_running_requests
        self._max_prefill_tokens = max_prefill_tokens
        self._has_runs = has_runs
        self._clock_ns = clock_ns
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._ended: list[Sequence] = []
        self._num_arrived = 0
        self._running_suspect: Sequence | None = None
        self._was_suspects_turn = False
        self._run: DecodeRun | None = None

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._ended)

    @property
    def has_sequences(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def has_suspects(self) -> bool:
        """Whether a suspect runs, or could be the next to."""
        begun = self._running_suspect
        if begun is not None and begun.is_suspect and begun.state is SequenceState.RUNNING:
            return True
        return bool(self._waiting) and self._waiting[0].is_suspect

    def now_ns(self) -> int:
        return self._clock_ns()

    def waiting(self) -> list[Sequence]:
        """The queue, in order. A copy, which any thread may take."""
        return self._waiting.copy()

    def running(self) -> list[Sequence]:
        """The running sequences. A copy, which any thread may take."""
        return self._running.copy()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; one that the given ids already finish is reported by the next commit instead."""
        self._close_run()  # so that it can be admitted
        self._num_arrived += 1
        sequence.rank = (0 if sequence.num_output_tokens else 1, self._num_arrived)
        finish = finish_of_given(sequence)
        if finish is None:
            insort(self._waiting, sequence, key=_rank)
        else:
            self._end(sequence, finish, self._clock_ns())
            self._ended.append(sequence)

    def abort(self, key: int, choice: int | None = None) -> int:
        """End the sequences of a request, or one of them; returns how many. The next commit reports them."""
        doomed = [
            sequence
            for sequence in (*self._running, *self._waiting)
            if sequence.key == key and choice in (None, sequence.choice)
        ]
        self._drop(doomed, ABORTED)
        return len(doomed)

    def schedule(self) -> Batch:
        """The next step: a suspect's or the others', in turn while there are both."""
        if self._run is not None:
            batch = self._continue_run(self._run)
            if batch:
                return batch
            self._close_run()
        batch = Batch([], 0) if self._was_suspects_turn else self._schedule_suspect()
        self._was_suspects_turn = bool(batch)
        return batch or self._schedule_others() or self._schedule_suspect()

    def dispatch(self, batch: Batch) -> None:
        """Note that the execution of the batch has begun: who comes after it finds its tokens computed."""
        if batch.run is not None:
            batch.run.num_dispatched += 1
            return
        for scheduled in batch.scheduled:
            sequence = scheduled.sequence
            sequence.num_computed_tokens += scheduled.num_scheduled_tokens
            if sequence.is_prefilling and not sequence.num_uncomputed_tokens:
                sequence.is_prefilling = False
                self._residency.share(sequence)
            sequence.num_pending_tokens += scheduled.samples
            if sequence.is_suspect and not sequence.is_prefilling:
                sequence.is_suspect = sequence.num_output_tokens + sequence.num_pending_tokens < sequence.alone_until
        if self._has_runs and self._may_repeat(batch):
            self._run = DecodeRun(batch.scheduled, self._residency.pool.page_size)

    def commit(self, batch: Batch, sampled: SampledTokens) -> StepResult:
        """Record what the step sampled, and finish who is done."""
        result = self._begin_result(batch, sampled.has_graph)
        if batch.run is not None and batch.run is self._run:
            self._commit_run(batch.run, sampled, result)
            return result
        now = self._clock_ns()
        place = 0
        for scheduled in batch.scheduled:
            sequence = scheduled.sequence
            if scheduled.samples:
                sequence.num_pending_tokens -= 1
                if sequence.finish is None:
                    token_id = sampled.token_ids[place]
                    self._append(sequence, token_id, now)
                    result.add(sequence, token_id, sampled.logprobs.get(place))
                place += 1
            elif sequence.finish is None and scheduled.completes:
                self._complete(sequence, LENGTH, now)
                result.add(sequence, None)
        return result

    def fail(self, sequences: list[Sequence], message: str) -> StepResult:
        """End these sequences, whose steps failed; what they computed is not trusted."""
        self._close_run()
        for sequence in sequences:
            sequence.num_pending_tokens = 0
        self._drop([s for s in sequences if s.finish is None], Finish("error", message=message))
        self._residency.cache.clear()  # it may hold pages of these steps
        return self._begin_result(Batch([], 0))

    def _may_repeat(self, batch: Batch) -> bool:
        """Whether nothing but the end of a sequence, an arrival or an abort can change the next batches."""
        if batch.num_decodes != len(batch.scheduled) or not batch or batch.num_preemptions:
            return False
        if self._waiting and len(self._running) < self._max_running:
            return False
        if any(_awaits_its_end(scheduled.sequence) or scheduled.sequence.is_suspect for scheduled in batch.scheduled):
            return False
        num_idle = len(self._running) - batch.num_decodes
        return num_idle == 0 or num_idle == sum(_awaits_its_end(sequence) for sequence in self._running)

    def _continue_run(self, run: DecodeRun) -> Batch:
        """The batch of the run once more; nothing if one of its sequences is full or pages run out."""
        if run.num_dispatched == run.num_steps:
            return Batch([], 0)
        for sequence in run.due_for_a_page():
            if not self._residency.extend(sequence):
                return Batch([], 0)
        return run.next_batch()

    def _close_run(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None

    def _commit_run(self, run: DecodeRun, sampled: SampledTokens, result: StepResult) -> None:
        """`commit` without touching any sequence, but for those that may be finished."""
        rows = run.commit(sampled.token_ids)
        result.add_all(run.sequences, run.first_indexes(), sampled)
        if not rows:
            return
        now, first_row = self._clock_ns(), len(result.sequences) - len(run.sequences)
        for row in rows:
            sequence = run.sequences[row]
            finish = finish_of(sequence)
            if finish is not None:
                self._complete(sequence, finish, now)
                result.finishes[first_row + row] = finish

    def _schedule_suspect(self) -> Batch:
        """The next chunk or token of the first suspect; nothing if there is none, or it cannot be admitted now."""
        plan = Plan(self._max_prefill_tokens)
        begun = self._running_suspect
        if begun is not None and begun.is_suspect and begun.state is SequenceState.RUNNING:
            self._schedule_one(begun, plan)
        elif self._waiting and _may_prefill_alone(self._waiting[0]) and len(self._running) < self._max_running:
            self._running_suspect = self._waiting[0]
            self._try_to_admit(0, plan)
        return plan.batch()

    def _schedule_others(self) -> Batch:
        plan = Plan(self._max_prefill_tokens)
        self._schedule_running(plan)
        if self._waiting:
            self._schedule_waiting(plan)
        return plan.batch()

    def _schedule_running(self, plan: Plan) -> None:
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            if not sequence.is_suspect:
                self._schedule_one(sequence, plan)
            index += 1

    def _schedule_one(self, sequence: Sequence, plan: Plan) -> None:
        if sequence.is_prefilling:
            if plan.budget > 0:
                plan.add_chunk(sequence)
        elif not _awaits_its_end(sequence) and self._reserve_slot(sequence, plan):
            plan.add_decode(sequence)

    def _reserve_slot(self, sequence: Sequence, plan: Plan) -> bool:
        """Make room for one more token, preempting from the end of the line; false if it hit `sequence` itself.

        Only sequences that this step has not scheduled yet come after `sequence`, so none of those is lost.
        """
        while not self._residency.grow(sequence):
            victim = self._running[-1]
            self._preempt(victim)
            plan.num_preemptions += 1
            if victim is sequence:
                return False
        return True

    def _schedule_waiting(self, plan: Plan) -> None:
        prefilling = {s.key for s in self._running if s.is_prefilling and self._will_share(s)}
        index = 0
        while index < len(self._waiting) and len(self._running) < self._max_running and plan.budget > 0:
            sequence = self._waiting[index]
            if sequence.key in prefilling:
                # Its sibling is computing their common prompt: a step later it is a prefix-cache hit.
                index += 1
                continue
            if sequence.is_suspect or sequence.num_pending_tokens or not self._try_to_admit(index, plan):
                # A suspect is not overtaken: a step of its own comes next. Nor is one that was preempted while its
                # last token was under way: it is known in the next step.
                return
            if self._will_share(sequence):
                prefilling.add(sequence.key)

    def _try_to_admit(self, index: int, plan: Plan) -> bool:
        """Let a waiting sequence run, with its first chunk; false if its pages cannot be had."""
        sequence = self._waiting[index]
        # A page per running sequence is spared, so that admission does not cause preemption at once.
        if not self._residency.enter(sequence, num_spare_pages=len(self._running)):
            return False
        del self._waiting[index]
        self._admit(sequence, plan)
        return True

    def _admit(self, sequence: Sequence, plan: Plan) -> None:
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
            sequence.times.first_scheduled_ns = self._clock_ns()
        sequence.state = SequenceState.RUNNING
        sequence.is_prefilling = True
        insort(self._running, sequence, key=_rank)
        plan.num_new_sequences += 1
        plan.num_cached_tokens += sequence.num_computed_tokens
        plan.add_chunk(sequence)

    def _will_share(self, sequence: Sequence) -> bool:
        """Whether its prefill still computes pages that a sibling could take from the cache."""
        page_size = self._residency.pool.page_size
        num_shareable = (sequence.num_prompt_tokens - 1) // page_size * page_size
        return self._residency.cache.is_sharing and sequence.num_computed_tokens < num_shareable

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._residency.share(sequence)
        self._residency.leave(sequence)
        sequence.state = SequenceState.WAITING
        sequence.is_prefilling = False
        sequence.num_preemptions += 1
        insort(self._waiting, sequence, key=_rank)

    def _append(self, sequence: Sequence, token_id: int, now: int) -> None:
        sequence.token_ids.append(token_id)
        if not sequence.times.first_token_ns:
            sequence.times.first_token_ns = now
        finish = finish_of(sequence)
        if finish is not None:
            self._complete(sequence, finish, now)

    def _complete(self, sequence: Sequence, finish: Finish, now: int) -> None:
        if self._run is not None and sequence in self._run:
            self._close_run()
        self._residency.share(sequence)
        self._retire(sequence, finish, now)

    def _retire(self, sequence: Sequence, finish: Finish, now: int) -> None:
        if self._run is not None and (self._waiting or sequence in self._run):
            self._close_run()
        if sequence.state is SequenceState.RUNNING:
            self._running.remove(sequence)
            self._residency.leave(sequence)
        else:
            self._waiting.remove(sequence)
        self._end(sequence, finish, now)

    def _drop(self, sequences: list[Sequence], finish: Finish) -> None:
        """End sequences outside of a commit; the next result reports them."""
        now = self._clock_ns()
        for sequence in sequences:
            self._retire(sequence, finish, now)
        self._ended.extend(sequences)

    @staticmethod
    def _end(sequence: Sequence, finish: Finish, now: int) -> None:
        assert sequence.finish is None, "a sequence finishes once"
        sequence.state = SequenceState.FINISHED
        sequence.finish = finish
        sequence.times.finished_ns = now

    def _begin_result(self, batch: Batch, has_graph: bool = False) -> StepResult:
        result = StepResult(self._stats(batch, has_graph))
        for sequence in self._ended:
            result.add(sequence, None)
        self._ended.clear()
        return result

    def _stats(self, batch: Batch, has_graph: bool) -> StepStats:
        pool = self._residency.pool
        num_pending = 0
        if batch.num_prefill_tokens:
            prefilling = (sequence for sequence in self._running if sequence.is_prefilling)
            num_pending = sum(s.num_uncomputed_tokens for s in (*self._waiting, *prefilling))
        return StepStats(
            num_decodes=batch.num_decodes,
            num_new_sequences=batch.num_new_sequences,
            num_prefill_tokens=batch.num_prefill_tokens,
            num_cached_tokens=batch.num_cached_tokens,
            num_preemptions=batch.num_preemptions,
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_pending_tokens=num_pending,
            num_used_tokens=pool.num_used * pool.page_size,
            num_kv_tokens=pool.num_pages * pool.page_size,
            has_graph=has_graph,
        )
