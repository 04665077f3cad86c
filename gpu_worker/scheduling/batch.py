"""What one step runs, and what came of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpu_worker.scheduling.sequence import Finish, Sequence

if TYPE_CHECKING:
    from gpu_worker.scheduling.decode_run import DecodeRun


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """A sequence and how many of its uncomputed tokens run in this step.

    `samples` says whether that is up to its last token, so that the next one can be sampled; `completes` that it is,
    and none is wanted.
    """

    sequence: Sequence
    num_scheduled_tokens: int
    samples: bool
    completes: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one step. The first `num_decodes` run one token each.

    With a `run` it repeats the batch before it, each sequence one token further; `grown` are those of its sequences
    that got a page since.
    """

    scheduled: list[ScheduledSequence]
    num_decodes: int
    num_prefill_tokens: int = 0
    num_new_sequences: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    run: "DecodeRun | None" = None
    grown: list[Sequence] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.scheduled)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of one output token: its own log probability, and the most likely ids with theirs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """What the step sampled: one id for each scheduled sequence that `samples`, in the order of the batch.

    `logprobs` is keyed by the place in `token_ids`, for the sequences that asked. `has_graph`: a CUDA graph ran.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    has_graph: bool = False


@dataclass(frozen=True, slots=True)
class StepStats:
    """Counts of one step, for logs and metrics. Tokens of the pool are whole pages."""

    num_decodes: int = 0
    num_new_sequences: int = 0
    num_prefill_tokens: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_pending_tokens: int = 0
    num_used_tokens: int = 0
    num_kv_tokens: int = 0
    has_graph: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step produced, as columns with a row per sequence that has something to report.

    Row i gives `counts[i]` new tokens, the next of the flat `token_ids`; the first of them is the output token
    of index `first_indexes[i]`. `finishes` and `logprobs` (one entry per new token) are keyed by row.
    Every sequence that was added appears in exactly one `finishes`.
    """

    stats: StepStats
    sequences: list[Sequence] = field(default_factory=list)
    first_indexes: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finishes: dict[int, Finish] = field(default_factory=dict)
    logprobs: dict[int, tuple[TokenLogprobs, ...]] = field(default_factory=dict)

    def add(self, sequence: Sequence, token_id: int | None, logprobs: TokenLogprobs | None = None) -> None:
        """Append the row of a sequence, after its new token (if any) and its finish are recorded in it."""
        row = len(self.sequences)
        self.sequences.append(sequence)
        if token_id is None:
            self.first_indexes.append(sequence.num_output_tokens)
            self.counts.append(0)
        else:
            self.first_indexes.append(sequence.num_output_tokens - 1)
            self.counts.append(1)
            self.token_ids.append(token_id)
        if logprobs is not None:
            self.logprobs[row] = (logprobs,)
        if sequence.finish is not None:
            self.finishes[row] = sequence.finish

    def add_all(self, sequences: list[Sequence], first_indexes: list[int], sampled: SampledTokens) -> None:
        """Append a row with one new token for each of these sequences."""
        first_row = len(self.sequences)
        self.sequences.extend(sequences)
        self.first_indexes.extend(first_indexes)
        self.counts.extend([1] * len(sequences))
        self.token_ids.extend(sampled.token_ids)
        for row, logprobs in sampled.logprobs.items():
            self.logprobs[first_row + row] = (logprobs,)
