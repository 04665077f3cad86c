"""One request in flight (one prompt, n choices), its current attempt, and the HTTP call that it belongs to."""

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.trace import Span

from gateway.errors import RequestError
from gateway.inflight.choice import Choice
from gateway.inflight.signal import Signal
from wire.messages import Dispatched, FinishReason, Prompt, SequenceStart, TextFinish
from wire.sampling import SamplingParams
from wire.telemetry import NO_SPAN


class Cause(enum.StrEnum):
    """Why an attempt was made: the first, or what ended the one before."""

    NEW = "new"
    UNREACHABLE = "unreachable"
    NOT_ACCEPTED = "not_accepted"
    TOKENIZER_LOST = "tokenizer_lost"
    WORKER_LOST = "worker_lost"
    WORKER_HUNG = "worker_hung"
    DETOKENIZER_LOST = "detokenizer_lost"
    DETOKENIZER_LEFT = "detokenizer_left"
    MISSING = "missing"
    SILENT = "silent"
    BEHIND = "behind"
    GAP = "gap"
    FAILED = "failed"
    RELEASED = "released"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    OUTAGE = "outage"
    NOT_HELD = "not_held"


class Standing(enum.Enum):
    """How far the present attempt has come, as far as is known here."""

    ON_THE_WAY = "on the way"
    QUEUED = "queued"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """What the client asked for, as the tokenizer will get it."""

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    sampling_from_model: tuple[str, ...] = ()


class HeldAt(NamedTuple):
    """A worker that has the request's sequences, and a key by which it knows them."""

    worker_id: str
    key: int


@dataclass(slots=True, eq=False)
class Attempt:
    """One try. `accept_by` is when the present holder must have answered; None once it has.

    `owed` is a number of output tokens that the worker has reported and the gateway has not all received, since
    `owed_since`. `num_missing` counts Progress of the holder in a row that did not name the key. After an outage at
    `doubted_at`, `prove_by` is when it must be clear that nothing of the attempt was lost; None otherwise. `is_resume`
    says that it continues frozen ids, `is_reattachment` that it asks a worker for what that has already.
    """

    key: int
    number: int
    cause: Cause
    tokenizer_id: str
    detokenizer_id: str
    accept_by: float | None
    heard_at: float
    span: Span = NO_SPAN
    worker_id: str = ""
    receipts: set[str] = field(default_factory=set)
    num_missing: int = 0
    owed: int = 0
    owed_since: float = 0.0
    num_received_before: int = 0
    is_resume: bool = False
    is_reattachment: bool = False
    doubted_at: float = 0.0
    prove_by: float | None = None

    @property
    def holder_id(self) -> str:
        """Who must answer for the request now."""
        return self.worker_id or self.tokenizer_id

    @property
    def is_asking(self) -> bool:
        """A re-attachment that its worker has not answered."""
        return self.is_reattachment and self.accept_by is not None


@dataclass(slots=True, eq=False)
class Generation:
    """One request. It survives its attempts; `attempt` is None while it waits for the next one.

    `is_delivering` says that the attempt has brought something. `dispatched` is frozen by the first attempt that came
    so far. `resume_at` is finite while a repeat is planned. `disturbed_since` is when the present trouble began;
    `num_repairs` count since the last delivered token; `suspects` are the instances that had it then. `num_crashes` are
    those in a row, without real progress between them; at the last one `num_received_at_crash` output ids had come.
    It `is_suspect` itself if a worker crashed before it gave a token (one that streamed has got past its prefill), or
    more than one in a row.
    `held` is a worker that goes on with it although no attempt says so: the next attempt asks there first.
    `num_elsewhere` output ids are of choices that had ended before the worker got its job, which it knows nothing of.
    """

    input: GenerationInput
    choices: list[Choice]
    call: "Call"
    attempt: Attempt | None = None
    standing: Standing = Standing.ON_THE_WAY
    is_delivering: bool = False
    num_attempts: int = 0
    dispatched: Dispatched | None = None
    is_done: bool = False
    error: RequestError | None = None
    num_prompt_tokens: int = 0
    cached_tokens: int = 0
    has_started: bool = False
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    next_cause: Cause = Cause.NEW
    resume_at: float = math.inf
    disturbed_since: float | None = None
    held: HeldAt | None = None
    num_elsewhere: int = 0
    num_repairs: int = 0
    num_crashes: int = 0
    num_received_at_crash: int = 0
    is_suspect: bool = False
    suspects: set[str] = field(default_factory=set)

    @property
    def num_received(self) -> int:
        """Output ids received, over all choices."""
        return sum(len(choice.token_ids) for choice in self.choices)

    @property
    def num_from_worker(self) -> int:
        """Output ids received, as the worker counts them."""
        return self.num_received - self.num_elsewhere

    @property
    def quiet_since(self) -> float:
        """When that unfinished choice had its last token which has waited longest since; 0 if it has none."""
        return min((choice.last_token_at for choice in self.choices if choice.finish is None), default=0.0)

    def unfinished(self) -> tuple[SequenceStart, ...]:
        """What the next attempt has to continue."""
        return tuple(
            SequenceStart(choice.index, choice.token_ids.tobytes(), choice.text_len)
            for choice in self.choices
            if choice.finish is None
        )

    def finish(self, choice: Choice, finish: TextFinish) -> None:
        """Ends one choice."""
        choice.finish = finish
        if all(other.finish for other in self.choices):
            self._end()

    def fail(self, error: RequestError) -> None:
        """Ends the request with an error."""
        self.error = error
        self.call.error = self.call.error or error
        self._end()

    def finish_aborted(self, message: str) -> None:
        """Ends every unfinished choice as aborted, which is no error."""
        for choice in self.choices:
            if choice.finish is None:
                self.finish(choice, self._aborted(choice, message))

    def _end(self) -> None:
        """Nothing more will come."""
        if not self.is_done:
            self.is_done = True
            self.call.num_open -= 1
            self.call.changed.set()

    def _aborted(self, choice: Choice, message: str) -> TextFinish:
        now = time.time_ns()
        reason, num_tokens = FinishReason.ABORT, len(choice.token_ids)
        return TextFinish(
            0, reason, None, self.num_prompt_tokens, num_tokens, self.cached_tokens, 0, 0, 0, now, now, message=message
        )


@dataclass(slots=True, eq=False)
class Call:
    """One HTTP call: its generations in the order of its prompts, and the signal that wakes its writer.

    `num_open` generations are not done; `error` is the first one's that failed.
    """

    model: str
    is_streaming: bool
    received_ns: int = field(default_factory=time.time_ns)
    received_at: float = field(default_factory=time.monotonic)
    generations: list[Generation] = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)
    span: Span = NO_SPAN
    num_open: int = 0
    error: RequestError | None = None

    def add(self, generation_input: GenerationInput) -> Generation:
        """One more prompt."""
        choices = [Choice(index) for index in range(generation_input.sampling.n)]
        generation = Generation(generation_input, choices, self)
        self.generations.append(generation)
        self.num_open += 1
        return generation

    @property
    def num_sequences(self) -> int:
        """The choices of all prompts, each of which a worker has to run."""
        return sum(len(generation.choices) for generation in self.generations)

    @property
    def is_done(self) -> bool:
        """Every generation is done."""
        return self.num_open == 0


Clock = Callable[[], float]
