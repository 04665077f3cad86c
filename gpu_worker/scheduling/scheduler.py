"""Who runs in the next step. First come, first served; decodes always, prefills in chunks within a budget.

A suspect, over which a worker may have crashed, prefills in steps of its own, so that it takes nobody along; every
other step is for the rest.

Invariants: a running sequence holds pages for all its tokens but perhaps the last; a waiting or finished one
holds none. Every sequence that was added is finished exactly once.
"""

import time
from bisect import insort
from collections.abc import Callable

from gpu_worker.scheduling.batch import Batch, SampledTokens, ScheduledSequence, StepResult, StepStats
from gpu_worker.scheduling.finish import LENGTH, finish_of, finish_of_given
from gpu_worker.scheduling.plan import Plan
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.sequence import Finish, Sequence, SequenceState

ABORTED = Finish("abort")


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


class Scheduler:
    """Holds every unfinished sequence, waiting or running, both sorted by rank (resumed first, then arrival)."""

    def __init__(
        self,
        residency: Residency,
        *,
        max_running_requests: int,
        max_prefill_tokens: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._residency = residency
        self._max_running = max_running_requests
        self._max_prefill_tokens = max_prefill_tokens
        self._clock_ns = clock_ns
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._ended: list[Sequence] = []
        self._num_arrived = 0
        self._prefilling_suspect: Sequence | None = None
        self._was_suspects_turn = False

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._ended)

    @property
    def has_sequences(self) -> bool:
        return bool(self._running or self._waiting)

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
        batch = Batch([], 0) if self._was_suspects_turn else self._schedule_suspect()
        self._was_suspects_turn = bool(batch)
        return batch or self._schedule_others() or self._schedule_suspect()

    def commit(self, batch: Batch, sampled: SampledTokens) -> StepResult:
        """Record what the step computed, and finish who is done."""
        result = self._begin_result(batch)
        now = self._clock_ns()
        place = 0
        for scheduled in batch.scheduled:
            sequence, samples = scheduled.sequence, scheduled.samples
            sequence.num_computed_tokens += scheduled.num_scheduled_tokens
            if sequence.is_prefilling and not sequence.num_uncomputed_tokens:
                sequence.is_prefilling = sequence.is_suspect = False
                self._residency.share(sequence)
            if samples:
                token_id = sampled.token_ids[place]
                self._append(sequence, token_id, now)
                result.add(sequence, token_id, sampled.logprobs.get(place))
                place += 1
            elif not sequence.num_uncomputed_tokens:
                self._complete(sequence, LENGTH, now)
                result.add(sequence, None)
        return result

    def fail(self, sequences: list[Sequence], message: str) -> StepResult:
        """End these sequences, whose step failed; what it computed is not trusted."""
        self._drop([s for s in sequences if s.finish is None], Finish("error", message=message))
        return self._begin_result(Batch([], 0))

    def _schedule_suspect(self) -> Batch:
        """The next chunk of the first suspect; nothing if there is none, or it cannot be admitted now."""
        plan = Plan(self._max_prefill_tokens)
        begun = self._prefilling_suspect
        if begun is not None and begun.is_suspect and begun.state is SequenceState.RUNNING:
            plan.add_chunk(begun)
        elif self._waiting and self._waiting[0].is_suspect and len(self._running) < self._max_running:
            self._prefilling_suspect = self._waiting[0]
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
            if sequence.is_prefilling:
                if plan.budget > 0 and not sequence.is_suspect:
                    plan.add_chunk(sequence)
            elif self._reserve_slot(sequence, plan):
                plan.decodes.append(ScheduledSequence(sequence, 1))
            index += 1

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
            if sequence.is_suspect or not self._try_to_admit(index, plan):
                return  # a suspect is not overtaken: a step of its own comes next
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
        self._residency.share(sequence)
        self._retire(sequence, finish, now)

    def _retire(self, sequence: Sequence, finish: Finish, now: int) -> None:
        self._running.remove(sequence)
        self._residency.leave(sequence)
        self._end(sequence, finish, now)

    def _drop(self, sequences: list[Sequence], finish: Finish) -> None:
        """End sequences outside of a commit; the next result reports them."""
        now = self._clock_ns()
        for sequence in sequences:
            if sequence.state is SequenceState.RUNNING:
                self._retire(sequence, finish, now)
            else:
                self._waiting.remove(sequence)
                self._end(sequence, finish, now)
        self._ended.extend(sequences)

    @staticmethod
    def _end(sequence: Sequence, finish: Finish, now: int) -> None:
        assert sequence.finish is None, "a sequence finishes once"
        sequence.state = SequenceState.FINISHED
        sequence.finish = finish
        sequence.times.finished_ns = now

    def _begin_result(self, batch: Batch) -> StepResult:
        result = StepResult(self._stats(batch))
        for sequence in self._ended:
            result.add(sequence, None)
        self._ended.clear()
        return result

    def _stats(self, batch: Batch) -> StepStats:
        pool = self._residency.pool
        num_pending = 0
        if batch.num_prefill_tokens:
            num_pending = sum(s.num_uncomputed_tokens for s in (*self._waiting, *self._running))
            num_pending -= batch.num_decodes + batch.num_prefill_tokens
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
        )
