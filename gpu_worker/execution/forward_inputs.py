"""Turns a batch of sequences into the tensors of one forward pass."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gpu_worker.kernels.torch_ops.attention import DecodePlan
from gpu_worker.models.forward_inputs import ForwardInputs
from gpu_worker.scheduling.batch import Batch, ScheduledSequence
from gpu_worker.scheduling.sequence import Sequence

Ints = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class MixedColumns:
    """A step with chunks, for a device that knows its sequences.

    `tokens` [3, num_tokens] are ids, positions and slots; the ids of decodes are 0, since only the device knows them.
    `sequences` [2, num_seqs] are table rows and context lengths, `token_counts` the tokens of each in this step.
    `samplers` [3, num_samplers] are, of the sequences that sample, the row of their last token, table row and context
    length.
    """

    tokens: Ints32
    sequences: Ints32
    samplers: Ints32
    token_counts: list[int]


def build_forward_inputs(batch: Batch, page_size: int, device: torch.device) -> ForwardInputs:
    """Token ids, positions, slots and page tables of a batch that the scheduler made."""
    decodes, chunks = batch.scheduled[: batch.num_decodes], batch.scheduled[batch.num_decodes :]
    columns = _decode_columns(decodes, page_size)
    if chunks:
        columns = np.concatenate([columns, *(_chunk_columns(c, page_size) for c in chunks)], axis=1)
    sequences = [scheduled.sequence for scheduled in batch.scheduled]
    decode_lens = [s.num_tokens for s in sequences[: batch.num_decodes]]
    context_lens = [c.sequence.num_computed_tokens + c.num_scheduled_tokens for c in chunks]
    chunk_lens = [scheduled.num_scheduled_tokens for scheduled in chunks]
    token_ids, positions, slots = torch.from_numpy(columns).to(device).unbind()
    return ForwardInputs(
        token_ids=token_ids,
        positions=positions,
        slot_mapping=slots,
        page_tables=torch.from_numpy(_page_tables(sequences)).to(device),
        table_rows=None,
        context_lens=torch.tensor(decode_lens + context_lens, dtype=torch.int32, device=device),
        num_decodes=batch.num_decodes,
        decode_plan=DecodePlan(max(decode_lens, default=0)),
        chunk_starts=torch.from_numpy(np.cumsum([0, *chunk_lens], dtype=np.int32)).to(device),
        max_chunk_len=max(chunk_lens, default=0),
        logit_rows=_logit_rows(batch, device) if chunks else None,
    )


def mixed_columns(batch: Batch, page_size: int) -> MixedColumns:
    """The integers of a batch that the scheduler made and that has chunks."""
    chunks = [_chunk_columns(scheduled, page_size) for scheduled in batch.scheduled[batch.num_decodes :]]
    slots = []
    sequences, samplers = [], []
    end = 0
    for place, scheduled in enumerate(batch.scheduled):
        sequence, num_tokens = scheduled.sequence, scheduled.num_scheduled_tokens
        position = sequence.num_computed_tokens
        end += num_tokens
        if place < batch.num_decodes:
            slots.append((0, position, sequence.page_table[position // page_size] * page_size + position % page_size))
        sequences.append((sequence.table_row, position + num_tokens))
        if scheduled.samples:
            samplers.append((end - 1, sequence.table_row, position + num_tokens))
    decodes = [np.array(slots, dtype=np.int64).T] if slots else []
    return MixedColumns(
        tokens=np.concatenate([*decodes, *chunks], axis=1).astype(np.int32),
        sequences=np.array(sequences, dtype=np.int32).T,
        samplers=np.array(samplers, dtype=np.int32).reshape(-1, 3).T,
        token_counts=[scheduled.num_scheduled_tokens for scheduled in batch.scheduled],
    )


def _decode_columns(decodes: Iterable[ScheduledSequence], page_size: int) -> Ints:
    """Ids, positions and slots, [3, num_decodes], of the last token of each sequence."""
    token_ids, positions, slots = [], [], []
    for scheduled in decodes:
        sequence = scheduled.sequence
        position = sequence.num_computed_tokens
        token_ids.append(sequence.token_ids[position])
        positions.append(position)
        slots.append(sequence.page_table[position // page_size] * page_size + position % page_size)
    return np.array((token_ids, positions, slots), dtype=np.int64)


def _chunk_columns(scheduled: ScheduledSequence, page_size: int) -> Ints:
    """The same of the next uncomputed tokens of one sequence, [3, num_scheduled_tokens]."""
    sequence, start = scheduled.sequence, scheduled.sequence.num_computed_tokens
    stop = start + scheduled.num_scheduled_tokens
    positions = np.arange(start, stop)
    pages = np.array(sequence.page_table, dtype=np.int64)[positions // page_size]
    token_ids = np.array(sequence.token_ids[start:stop], dtype=np.int64)
    return np.stack((token_ids, positions, pages * page_size + positions % page_size))


def _page_tables(sequences: list[Sequence]) -> npt.NDArray[np.int32]:
    """[num_seqs, max_pages], padded with page 0, whose content is masked where it does not belong."""
    width = max(len(sequence.page_table) for sequence in sequences)
    tables = np.zeros((len(sequences), width), dtype=np.int32)
    for row, sequence in zip(tables, sequences, strict=True):
        row[: len(sequence.page_table)] = sequence.page_table
    return tables


def _logit_rows(batch: Batch, device: torch.device) -> torch.Tensor:
    """The row of the last token of every sequence that samples."""
    rows, end = [], 0
    for scheduled in batch.scheduled:
        end += scheduled.num_scheduled_tokens
        if scheduled.samples:
            rows.append(end - 1)
    return torch.tensor(rows, dtype=torch.int64, device=device)
