"""An engine without a model: one token per sequence and step, to measure the pipeline around it. Knows no torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.batch import StepResult, StepStats
from gpu_worker.scheduling.finish import LENGTH, finish_of, finish_of_given
from gpu_worker.scheduling.sequence import Finish, GenerationRequest, Sequence, SequenceState, new_sequences


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """`step_interval_s` is the time from one step to the next, 0 for as fast as it goes.

    Ids are drawn from `first_token_id` up to `vocab_size`, so that special tokens can be left out.
    """

    vocab_size: int
    context_length: int = 1 << 20
    step_interval_s: float = 0.0
    first_token_id: int = 0


class SyntheticEngine:
    """Everything that is added runs at once; ids depend on the choice and the output index alone."""

    def __init__(
        self,
        options: SyntheticOptions,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.num_pages = self.num_used_pages = self.num_cached_pages = 0
        self.limits = AdmissionLimits(options.vocab_size, options.context_length, options.context_length)
        self._options = options
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._running: list[Sequence] = []
        self._ended: list[Sequence] = []
        self._next_step_ns = 0

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._ended)

    def add(self, request: GenerationRequest) -> list[Sequence]:
        """Start the sequences of a request. Raises `RequestRefusedError` as a real engine would."""
        self.limits.check(request)
        now = self._clock_ns()
        sequences = new_sequences(request, self.limits.max_new_tokens, frozenset(), now)
        for sequence in sequences:
            finish = finish_of_given(sequence) if sequence.max_new_tokens else LENGTH
            if finish is None:
                sequence.state, sequence.times.first_scheduled_ns = SequenceState.RUNNING, now
                self._running.append(sequence)
            else:
                self._end(sequence, finish)
        return sequences

    def abort(self, key: int, choice: int | None = None) -> int:
        """End the sequences of a request; the next step reports them."""
        doomed = [s for s in self._running if s.key == key and choice in (None, s.choice)]
        for sequence in doomed:
            self._running.remove(sequence)
            self._end(sequence, Finish("abort"))
        return len(doomed)

    def step(self, announce: Callable[[int], object] = lambda key: None) -> StepResult:
        """Wait for the time of the step, then give every running sequence its next token."""
        self._wait_for_turn()
        result = StepResult(StepStats(num_decodes=len(self._running), num_running=len(self._running)))
        self._report_ended(result)
        now = self._clock_ns()
        for sequence in self._running:
            token_id = self._token_id(sequence)
            sequence.token_ids.append(token_id)
            if not sequence.times.first_token_ns:
                sequence.times.first_token_ns = now
            finish = finish_of(sequence)
            if finish is not None:
                self._finish(sequence, finish, now)
            result.add(sequence, token_id)
        if result.finishes:
            self._running = [s for s in self._running if s.finish is None]
        return result

    def fail_step(self, error: Exception) -> StepResult:
        """End everything that runs."""
        finish = Finish("error", message=f"{type(error).__name__}: {error}")
        for sequence in self._running:
            self._end(sequence, finish)
        self._running = []
        result = StepResult(StepStats())
        self._report_ended(result)
        return result

    def flush_prefix_cache(self) -> bool:
        """There is nothing to forget, but as with a real engine not while sequences run."""
        return not self._running

    def waiting(self) -> list[Sequence]:
        """Nothing ever waits."""
        return []

    def running(self) -> list[Sequence]:
        """The running sequences. Any thread may ask."""
        return self._running.copy()

    def _wait_for_turn(self) -> None:
        interval_ns = int(self._options.step_interval_s * 1e9)
        if not interval_ns:
            return
        now = self._clock_ns()
        if now < self._next_step_ns:
            self._sleep((self._next_step_ns - now) / 1e9)
        self._next_step_ns = max(now, self._next_step_ns) + interval_ns

    def _token_id(self, sequence: Sequence) -> int:
        first = self._options.first_token_id
        # A step of the golden ratio through the vocabulary: all ids, no short cycle.
        place = (sequence.num_output_tokens + 7 * sequence.choice) * 0x9E3779B1
        return first + place % (self._options.vocab_size - first)

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        self._finish(sequence, finish, self._clock_ns())
        self._ended.append(sequence)

    @staticmethod
    def _finish(sequence: Sequence, finish: Finish, now: int) -> None:
        sequence.state, sequence.finish = SequenceState.FINISHED, finish
        sequence.times.finished_ns = now

    def _report_ended(self, result: StepResult) -> None:
        for sequence in self._ended:
            result.add(sequence, None)
        self._ended.clear()
