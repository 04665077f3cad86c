"""A sequence: the state of one choice of one request inside the worker."""

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from wire.sampling import SamplingParams

# Below it a temperature means greedy: dividing by it would only lose precision.
MIN_TEMPERATURE = 1e-6

FinishReason = Literal["stop", "length", "abort", "error"]


class SequenceState(Enum):
    WAITING = "queued"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a sequence ended. `matched` is the token id that stopped it, `message` explains an error."""

    reason: FinishReason
    matched: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class NewSequence:
    """One choice that is asked for. `sequence_id` is the caller's; `output_ids` were generated before (a resume)."""

    sequence_id: int
    choice: int = 0
    output_ids: Ids[int] | bytes = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What the engine is asked to do: one prompt, one set of parameters, the choices that are not finished yet.

    `prompt_ids` may be ids or little-endian uint32 bytes, as they come off the wire. `is_suspect` says that a worker
    crashed while it had the request; of each sequence it is to get `num_tokens_alone` new tokens in steps of its own.
    """

    key: int
    prompt_ids: Ids[int] | bytes
    sampling: SamplingParams
    sequences: tuple[NewSequence, ...] = (NewSequence(0),)
    arrival_ns: int | None = None
    is_suspect: bool = False
    num_tokens_alone: int = 0


@dataclass(slots=True)
class Times:
    """Unix time in nanoseconds of what happened to a sequence; 0 if it has not."""

    arrival_ns: int
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    finished_ns: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of a request. Only the engine thread changes it; others may read single fields.

    `max_new_tokens` is as asked, but within the context length; `stopping_ids` are all ids that end it.
    `token_ids` is the prompt followed by all output ids, given or sampled, as far as they are known; after them come
    `num_pending_tokens` that steps under way will sample. `num_computed_tokens` of all these have their KV in the pages
    of `page_table`, or will have it when those steps are through. `num_cached_tokens` is the number of prompt tokens
    that the prefix cache had at the first admission, None before it. `is_prefilling` holds from an admission until all
    tokens of that moment are computed. `is_suspect` holds, for one that a worker may have crashed over, until its first
    prefill has done no harm, nor its decodes up to `alone_until` output tokens. `table_row` is its place in the tables
    of a device while it runs, -1 else; `is_on_device` and `num_synced_pages` say what these tables hold of it.
    `is_plain_greedy` is `is_plain_greedy(sampling)`, asked in every step.
    """

    sequence_id: int
    key: int
    choice: int
    sampling: SamplingParams
    token_ids: "array[int]"
    num_prompt_tokens: int
    times: Times
    max_new_tokens: int
    stopping_ids: frozenset[int] = frozenset()
    rank: tuple[int, int] = (1, 0)
    num_computed_tokens: int = 0
    num_pending_tokens: int = 0
    num_cached_tokens: int | None = None
    num_preemptions: int = 0
    is_prefilling: bool = False
    is_suspect: bool = False
    alone_until: int = 0
    page_table: "array[int]" = field(default_factory=lambda: array("i"))
    table_row: int = -1
    is_on_device: bool = False
    num_synced_pages: int = 0
    state: SequenceState = SequenceState.WAITING
    finish: Finish | None = None
    is_plain_greedy: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_plain_greedy = is_plain_greedy(self.sampling)

    @property
    def num_tokens(self) -> int:
        """All tokens, those under way included."""
        return len(self.token_ids) + self.num_pending_tokens

    @property
    def num_output_tokens(self) -> int:
        """Output tokens that are known."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def num_unsampled_tokens(self) -> int:
        """How many more tokens may be sampled than are known or under way."""
        return self.max_new_tokens - self.num_output_tokens - self.num_pending_tokens

    @property
    def output_ids(self) -> "array[int]":
        return self.token_ids[self.num_prompt_tokens :]


def new_sequences(
    request: GenerationRequest,
    max_new_tokens: Callable[[int, SamplingParams], int],
    eos_ids: frozenset[int],
    now_ns: int,
) -> list[Sequence]:
    """The sequences of a request. `max_new_tokens` resolves the limit of a prompt's length and parameters."""
    prompt_ids = as_token_ids(request.prompt_ids)
    limit = max_new_tokens(len(prompt_ids), request.sampling)
    stopping = stopping_ids(request.sampling, eos_ids)
    given = [as_token_ids(new.output_ids) for new in request.sequences]
    return [
        Sequence(
            sequence_id=new.sequence_id,
            key=request.key,
            choice=new.choice,
            sampling=request.sampling,
            token_ids=prompt_ids + output_ids,
            num_prompt_tokens=len(prompt_ids),
            times=Times(request.arrival_ns or now_ns),
            max_new_tokens=limit,
            stopping_ids=stopping,
            is_suspect=request.is_suspect,
            alone_until=len(output_ids) + request.num_tokens_alone,
        )
        for new, output_ids in zip(request.sequences, given, strict=True)
    ]


def as_token_ids(ids: Ids[int] | bytes) -> "array[int]":
    """Token ids as `array("I")`, from ids or from little-endian uint32 bytes."""
    token_ids = array("I")
    if isinstance(ids, bytes):
        token_ids.frombytes(ids)
    else:
        token_ids.extend(ids)
    return token_ids


def stopping_ids(params: SamplingParams, eos_ids: frozenset[int]) -> frozenset[int]:
    """All ids that end a sequence with these parameters."""
    if params.ignore_eos:
        return frozenset(params.stop_token_ids)
    return eos_ids.union(params.stop_token_ids)


def is_greedy(params: SamplingParams) -> bool:
    """Whether the most likely token is always taken: a temperature of (almost) zero."""
    return params.temperature < MIN_TEMPERATURE


def is_plain_greedy(params: SamplingParams) -> bool:
    """Whether the next token is the most likely one, and nothing changes the logits or asks for them."""
    return is_greedy(params) and not (
        has_penalties(params) or params.logit_bias or params.min_new_tokens or params.return_logprob
    )


def has_penalties(params: SamplingParams) -> bool:
    return bool(params.repetition_penalty != 1.0 or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0)
