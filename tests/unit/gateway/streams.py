"""Builders for tests without a bus: generations, attempts, batches, and a clock that stands still."""

from dataclasses import dataclass, field
from typing import Any

from gateway.errors import RequestError
from gateway.inflight.generation import Attempt, Call, Cause, Generation, GenerationInput
from gateway.inflight.in_flight import InFlight
from wire.columns import pack_u32, pack_u64
from wire.messages import Peer, Stage, TextBatch, TextFinish, TextPrompt
from wire.sampling import SamplingParams

WORKER = Peer("worker-1", 1)
TOKENIZER = Peer("tokenizer-1", 1)
DETOKENIZER = Peer("detokenizer-1", 1)


@dataclass
class StillClock:
    """Time as the test says."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Counted:
    """The counters of the hot path and of recovery, as plain numbers."""

    stale: int = 0
    duplicates: int = 0
    malformed: int = 0
    unknown: int = 0
    repairs: list[Cause] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    gaps: list[tuple[float, int]] = field(default_factory=list)

    def count_stale_rows(self, rows: int) -> None:
        self.stale += rows

    def count_duplicate(self) -> None:
        self.duplicates += 1

    def count_malformed(self) -> None:
        self.malformed += 1

    def observe_gaps_between_tokens(self, gaps: list[tuple[float, int]]) -> None:
        self.gaps += gaps

    def count_repair(self, cause: Cause, stage: str) -> None:
        self.repairs.append(cause)
        self.stages.append(stage)

    def observe_detection(self, _: Stage, silence_s: float) -> None:
        self.silences.append(silence_s)

    def count_unknown_keys(self, keys: int) -> None:
        self.unknown += keys


def generation_of(in_flight: InFlight, *, n: int = 1) -> Generation:
    """A generation in flight, without an attempt."""
    generation = Call("m", is_streaming=True).add(GenerationInput("r", TextPrompt("x"), SamplingParams(n=n)))
    in_flight.admit(generation)
    return generation


def attempt_of(in_flight: InFlight, generation: Generation, key: int, **fields: Any) -> Attempt:
    """The generation's next attempt, at its beginning."""
    attempt = Attempt(
        key=key,
        number=generation.num_attempts + 1,
        cause=Cause.NEW,
        tokenizer_id=TOKENIZER.instance_id,
        detokenizer_id=DETOKENIZER.instance_id,
        accept_by=None,
        heard_at=0.0,
        num_received_before=generation.num_received,
    )
    for name, value in fields.items():
        setattr(attempt, name, value)
    in_flight.begin(generation, attempt)
    return attempt


@dataclass(frozen=True)
class Row:
    """One row of a batch; the text of a token is its id as a letter."""

    key: int
    choice: int
    first: int
    token_ids: list[int]
    text: str = ""
    text_offset: int = 0


def batch_of(*rows: Row, finishes: tuple[TextFinish, ...] = (), **fields: Any) -> TextBatch:
    """The rows as columns."""
    return TextBatch(
        detokenizer=DETOKENIZER,
        worker=WORKER,
        keys=pack_u64(row.key for row in rows),
        choices=pack_u32(row.choice for row in rows),
        first_indexes=pack_u32(row.first for row in rows),
        counts=pack_u32(len(row.token_ids) for row in rows),
        token_ids=pack_u32(token_id for row in rows for token_id in row.token_ids),
        text_offsets=pack_u32(row.text_offset for row in rows),
        texts=[row.text for row in rows],
        finishes=finishes,
        **fields,
    )


@dataclass
class Ended:
    """The generations that were ended, and how."""

    failed: list[RequestError] = field(default_factory=list)
    attempts: list[Cause] = field(default_factory=list)

    def fail(self, generation: Generation, error: RequestError) -> None:
        generation.fail(error)
        self.failed.append(error)

    def end_attempt(self, _: Generation, __: Attempt, cause: Cause) -> None:
        self.attempts.append(cause)
