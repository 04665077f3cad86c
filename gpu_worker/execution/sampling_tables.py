"""What sampling needs of every running sequence, in tables on the device, so that a step passes rows and no parameters.

Counts of sampled tokens are kept there as well: the next step can start before the host has seen the ids of this one.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpu_worker.execution.sampling_needs import Needs, has_filters
from gpu_worker.execution.staging import StagingRing
from gpu_worker.execution.token_logprobs import AskedLogprobs, ask_logprobs
from gpu_worker.kernels import sampling_row
from gpu_worker.scheduling.finish import masked_ids
from gpu_worker.scheduling.sequence import Sequence, has_penalties, is_greedy

Words = npt.NDArray[np.int32]

_MASK64 = (1 << 64) - 1
# A count is an int16 whose sign bit says that the prompt has the id.
_MAX_COUNT, _IN_PROMPT = 0x7FFF, -0x8000
_MIN_EDITS = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is to be written of one sequence: a row of parameters, edits [3, n], and ids with their counts [2, n]."""

    parameters: Words
    edits: Words
    counts: Words | None


class SamplingTables:
    """Tables of `max_rows` rows. A sequence has a row from `enter` until the next one enters there.

    Rows of a step beyond its sequences may name any row of its own that no sequence has, such as a spare one.
    """

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        # Triton is there where this class is used, but not where this module may be imported.
        from gpu_worker.kernels.triton_ops import filtered_sampling, logit_edits, sampling  # noqa: PLC0415

        self._sampling, self._filtered, self._edits_ops = sampling, filtered_sampling, logit_edits
        self._max_rows, self._vocab_size, self._device = max_rows, vocab_size, device
        self._staging = StagingRing(device)
        self._parameters = torch.zeros((max_rows, sampling_row.NUM_WORDS), dtype=torch.int32, device=device)
        # Both are made when the first sequence needs them; rows that have edits are known, to clear them after use.
        self._counts: Tensor | None = None
        self._edits: Tensor | None = None
        self._edited_rows: set[int] = set()
        self._entering: dict[int, _Entry] = {}

    def enter(self, row: int, sequence: Sequence) -> None:
        """Give a row to a sequence, which may have output ids already. It counts from the next `flush` on."""
        assert 0 <= row < self._max_rows
        self._entering[row] = _Entry(
            _parameter_words(sequence, self._vocab_size),
            _edit_words(sequence, self._vocab_size),
            _count_words(sequence) if has_penalties(sequence.sampling) else None,
        )

    @torch.inference_mode()
    def flush(self) -> None:
        """Write what entered, in one copy. Must come before the step that needs it, on the same stream."""
        if not self._entering:
            return
        entering, self._entering = self._entering, {}
        rows = list(entering)
        edited = self._rows_to_edit(entering)
        counted = [row for row in rows if entering[row].counts is not None]
        positions, counts = _flat_counts(entering, counted, self._vocab_size)
        max_edits = 0 if self._edits is None else self._edits.shape[2]
        parts = [
            np.array(rows, dtype=np.int32),
            np.concatenate([entry.parameters for entry in entering.values()]),
            np.array(edited, dtype=np.int32),
            *(_padded(entering[row].edits, max_edits) for row in edited),
            np.array(counted, dtype=np.int32),
            positions,
            counts,
        ]
        words = self._staging.upload(np.concatenate(parts))
        sizes = [len(rows), len(rows) * sampling_row.NUM_WORDS, len(edited), len(edited) * 3 * max_edits]
        sizes += [len(counted), len(positions), len(counts)]
        on_device = torch.split(words, sizes)
        self._parameters.index_copy_(0, on_device[0].long(), on_device[1].view(len(rows), -1))
        if edited and self._edits is not None:
            self._edits.index_copy_(0, on_device[2].long(), on_device[3].view(len(edited), 3, max_edits))
        # Only now, should memory have run out before: a row that is not cleared must be known as one that has edits.
        self._edited_rows -= {row for row, entry in entering.items() if not entry.edits.size}
        if counted:
            self._set_counts(*on_device[4:])

    @torch.inference_mode()
    def sample(
        self, logits: Tensor, rows: Tensor, output_indexes: Tensor, needs: Needs, out: Tensor | None = None
    ) -> Tensor:
        """The next id of each row of [num_rows, vocab_size], as int64 [num_rows], and count it where that is needed.

        `rows` and `output_indexes` (int32 [num_rows]) are the table row and the number of output tokens so far.
        `needs` are those of all sequences, or more.
        """
        assert logits.shape[1] == self._vocab_size
        edited = self._edited(logits, rows, output_indexes, needs) if needs & Needs.EDITS else logits
        if needs & Needs.NOISE:
            randomness = (self._parameters, rows, output_indexes)
            has_filtered = bool(needs & Needs.FILTERS)
            token_ids = self._sampling.sample(edited, *randomness, skips_filtered=has_filtered, out=out)
            if has_filtered:
                self._filtered.filtered_sample_(token_ids, edited, *randomness)
        else:
            token_ids = self._sampling.argmax(edited, out)
        if needs & Needs.PENALTIES and self._counts is not None:
            self._edits_ops.count_tokens_(self._counts, self._parameters, rows, token_ids)
        return token_ids

    def logprobs(self, logits: Tensor, token_ids: Tensor, sequences: List[Sequence]) -> AskedLogprobs | None:
        """Of the model's own logits and the sampled ids, for the sequences that ask. Read it with `read_logprobs`."""
        return ask_logprobs(logits, token_ids, sequences, self._staging)

    def _edited(self, logits: Tensor, rows: Tensor, output_indexes: Tensor, needs: Needs) -> Tensor:
        counts = self._counts if needs & Needs.PENALTIES else None
        edited: Tensor = self._edits_ops.penalised(logits, self._parameters, rows, counts)
        if self._edits is not None:
            self._edits_ops.edit_logits_(edited, self._edits, rows, output_indexes)
        return edited

    def _rows_to_edit(self, entering: dict[int, _Entry]) -> list[int]:
        """Rows that have edits now or had them before; makes room for the longest."""
        edited = {row for row, entry in entering.items() if entry.edits.size}
        to_write = [row for row in entering if row in edited or row in self._edited_rows]
        self._edited_rows |= edited
        longest = max((entry.edits.shape[1] for entry in entering.values()), default=0)
        width = 0 if self._edits is None else self._edits.shape[2]
        if longest > width:
            wider = max(_MIN_EDITS, 1 << (longest - 1).bit_length())
            edits = torch.full((self._max_rows, 3, wider), -1, dtype=torch.int32, device=self._device)
            if self._edits is not None:
                edits[:, :, :width] = self._edits
            self._edits = edits
        return to_write

    def _set_counts(self, counted: Tensor, positions: Tensor, counts: Tensor) -> None:
        if self._counts is None:
            shape = (self._max_rows, self._vocab_size)
            self._counts = torch.zeros(shape, dtype=torch.int16, device=self._device)
        self._counts.index_fill_(0, counted.long(), 0)
        self._counts.view(-1).index_copy_(0, positions.long(), counts.to(torch.int16))


def _parameter_words(sequence: Sequence, vocab_size: int) -> Words:
    """One row as `sampling_row` says."""
    params = sequence.sampling
    words = np.zeros(sampling_row.NUM_WORDS, dtype=np.int32)
    floats = words.view(np.float32)
    seed = np.array([params.seed & _MASK64], dtype=np.uint64).view(np.int32)
    floats[sampling_row.INVERSE_TEMPERATURE] = 0.0 if is_greedy(params) else 1.0 / params.temperature
    words[sampling_row.SEED_LOW], words[sampling_row.SEED_HIGH] = seed
    words[sampling_row.CHOICE] = sequence.choice
    words[sampling_row.IS_FILTERED] = has_filters(sequence)
    words[sampling_row.TOP_K] = min(params.top_k, vocab_size) if params.top_k > 0 else vocab_size
    floats[sampling_row.TOP_P], floats[sampling_row.MIN_P] = params.top_p, params.min_p
    words[sampling_row.HAS_PENALTIES] = has_penalties(params)
    floats[sampling_row.REPETITION] = params.repetition_penalty
    floats[sampling_row.FREQUENCY], floats[sampling_row.PRESENCE] = params.frequency_penalty, params.presence_penalty
    return words


def _edit_words(sequence: Sequence, vocab_size: int) -> Words:
    """Ids, bits of their biases, and the output indexes before which they must not come, [3, num_edits]."""
    params = sequence.sampling
    masked = masked_ids(sequence)
    ids = sorted(id_ for id_ in masked.union(params.logit_bias) if id_ < vocab_size)
    biases = np.array([params.logit_bias.get(id_, 0.0) for id_ in ids], dtype=np.float32)
    first_allowed = [params.min_new_tokens if id_ in masked else 0 for id_ in ids]
    return np.stack((np.array(ids, dtype=np.int32), biases.view(np.int32), np.array(first_allowed, dtype=np.int32)))


def _padded(edits: Words, width: int) -> Words:
    padded = np.full((3, width), -1, dtype=np.int32)
    padded[:, : edits.shape[1]] = edits
    return padded.reshape(-1)


def _count_words(sequence: Sequence) -> Words:
    """The distinct ids so far and their counts, [2, num_ids]."""
    ids = np.array(sequence.token_ids, dtype=np.int32)
    prompt = ids[: sequence.num_prompt_tokens]
    distinct, places = np.unique(ids, return_inverse=True)
    counts = np.bincount(places[len(prompt) :], minlength=len(distinct))
    in_prompt = np.isin(distinct, prompt)
    words = np.minimum(counts, _MAX_COUNT) + np.where(in_prompt, _IN_PROMPT, 0)
    return np.stack((distinct, words.astype(np.int32)))


def _flat_counts(entering: dict[int, _Entry], counted: list[int], vocab_size: int) -> tuple[Words, Words]:
    """Positions in the table of counts and what comes there."""
    columns = [np.zeros((2, 0), dtype=np.int32)]
    for row in counted:
        entry = entering[row]
        assert entry.counts is not None
        columns.append(entry.counts + np.array([[row * vocab_size], [0]], dtype=np.int32))
    positions, counts = np.concatenate(columns, axis=1)
    return positions, counts
