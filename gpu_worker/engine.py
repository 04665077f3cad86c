"""The engine: sequences in, steps, tokens out. Knows no bus and no threads."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.batch import Batch, SampledTokens, StepResult
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.scheduler import Scheduler
from gpu_worker.scheduling.sequence import GenerationRequest, Sequence, new_sequences


class Launched(Protocol):
    """A step under way."""

    def result(self) -> SampledTokens:
        """One id for each sequence of the batch that samples, in order. Waits until they are known."""
        ...


class Runner(Protocol):
    """What executes batches: the model, or in tests an arithmetic rule. Batches are executed in order."""

    def launch(self, batch: Batch) -> Launched:
        """Begin the execution of a batch; what it needs of the sequences is read before this returns."""
        ...


class Engine:
    """Owns all sequences of a worker. Everything here runs in one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        residency: Residency,
        limits: AdmissionLimits,
        eos_ids: frozenset[int],
        *,
        overlaps: bool = False,
    ) -> None:
        """With `overlaps` a step is launched before the tokens of the one before it are read."""
        self.limits = limits
        self._eos_ids = eos_ids
        self._scheduler = scheduler
        self._runner = runner
        self._residency = residency
        self._max_under_way = 1 if overlaps else 0
        self._under_way: deque[tuple[Batch, Launched]] = deque()
        self._batch: Batch | None = None

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._under_way)

    def step(self, announce: Callable[[int], object] = lambda key: None) -> StepResult:
        """Launch what is due, and say what came of the step before it (without overlap, of this one).

        While there is a suspect steps do not overlap: whatever one of them breaks, it takes no other along. `announce`
        gets the key of a suspect, for each of its choices, whose prefill begins when it returns.
        """
        self._batch = None
        is_careful = self._scheduler.has_suspects
        if is_careful and self._under_way:
            return self._commit_oldest()
        self._batch = batch = self._scheduler.schedule()
        if batch:
            if batch.num_new_sequences and (first := batch.scheduled[0].sequence).is_suspect:
                announce(first.key)
            launched = self._runner.launch(batch)
            self._scheduler.dispatch(batch)
            self._under_way.append((batch, launched))
        if len(self._under_way) > (self._max_under_way if batch and not is_careful else 0):
            return self._commit_oldest()
        return self._scheduler.commit(Batch([], 0), SampledTokens())

    def _commit_oldest(self) -> StepResult:
        self._batch, launched = self._under_way[0]
        sampled = launched.result()
        self._under_way.popleft()
        return self._scheduler.commit(self._batch, sampled)

    def fail_step(self, error: Exception) -> StepResult:
        """After `step` has raised: end the sequences that were in it, so that the others can go on.

        If not even a batch was made, every sequence is suspect.
        """
        suspects = self.running() + self.waiting()
        if self._batch is not None:
            batches = [self._batch, *(batch for batch, _ in self._under_way)]
            suspects = list({scheduled.sequence: None for batch in batches for scheduled in batch.scheduled})
        self._under_way.clear()
        return self._scheduler.fail(suspects, f"{type(error).__name__}: {error}")

    def add(self, request: GenerationRequest) -> list[Sequence]:
        """Queue the sequences of a request. Raises `RequestRefusedError` for what can never be served."""
        self.limits.check(request)
        now_ns = self._scheduler.now_ns()
        sequences = new_sequences(request, self.limits.max_new_tokens, self._eos_ids, now_ns)
        for sequence in sequences:
            self._scheduler.add(sequence)
        return sequences

    def abort(self, key: int, choice: int | None = None) -> int:
        """End the sequences of a request, or only one choice; the next step reports them. Returns how many."""
        return self._scheduler.abort(key, choice)

    def flush_prefix_cache(self) -> bool:
        """Forget all cached prefixes; refused, with False, while there are sequences."""
        if self._scheduler.has_sequences:
            return False
        self._residency.cache.clear()
        return True

    def waiting(self) -> list[Sequence]:
        """The queue, in order. Any thread may ask."""
        return self._scheduler.waiting()

    def running(self) -> list[Sequence]:
        """The running sequences. Any thread may ask."""
        return self._scheduler.running()

    @property
    def num_pages(self) -> int:
        return self._residency.pool.num_pages

    @property
    def num_used_pages(self) -> int:
        """Pages that sequences hold."""
        return self._residency.pool.num_used

    @property
    def num_cached_pages(self) -> int:
        """Pages that only the prefix cache keeps."""
        return self._residency.pool.num_cached
