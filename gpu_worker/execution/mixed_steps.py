"""Steps with chunks of prefills, and the decodes that run beside them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.execution.device_model import Chosen, DeviceModel
from gpu_worker.execution.forward_inputs import MixedColumns, mixed_columns
from gpu_worker.execution.graphs import GraphPool, Graphs, mixed_sizes, next_size
from gpu_worker.execution.sampling_needs import needs_of
from gpu_worker.models.forward_inputs import ForwardInputs
from gpu_worker.scheduling.batch import Batch

# In a recorded step decodes are chunks of one token, whose attention is not split along the context: with a longer one
# than this the step would wait for it.
_MAX_RECORDED_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Where the graph of one size finds its step, int32.

    `tokens` [3, size], `sequences` [2, n], `starts` [n + 1] and `logit_rows` [n], of which the first are wanted.
    """

    words: Tensor
    tokens: Tensor
    sequences: Tensor
    starts: Tensor
    logit_rows: Tensor

    @classmethod
    def make(cls, size: int, max_seqs: int, device: torch.device) -> "_Buffers":
        lengths = [3 * size, 2 * max_seqs, max_seqs + 1, max_seqs]
        words = torch.zeros(sum(lengths), dtype=torch.int32, device=device)
        tokens, sequences, starts, logit_rows = torch.split(words, lengths)
        tokens = tokens.view(3, size)
        tokens[2] = -1
        return cls(words, tokens, sequences.view(2, -1), starts, logit_rows)

    def padded(self, columns: MixedColumns) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """The words of a step; what does not exist writes nowhere and has no tokens."""
        tokens = np.zeros(self.tokens.shape, dtype=np.int32)
        tokens[2] = -1
        tokens[:, : columns.tokens.shape[1]] = columns.tokens
        sequences = np.zeros(self.sequences.shape, dtype=np.int32)
        sequences[:, : columns.sequences.shape[1]] = columns.sequences
        lens = columns.token_counts
        starts = np.full(self.starts.shape, columns.tokens.shape[1], dtype=np.int32)
        starts[: len(lens) + 1] = np.cumsum([0, *lens])
        logit_rows = np.zeros(self.logit_rows.shape, dtype=np.int32)
        logit_rows[: columns.samplers.shape[1]] = columns.samplers[0]
        return np.concatenate([tokens.ravel(), sequences.ravel(), starts, logit_rows])


class MixedSteps:
    """Launches them, from CUDA graphs where one is large enough; a large step outlasts its launches anyway."""

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        self._device = model.tables.last_ids.device
        self._sizes: list[int] = []
        self._buffers: dict[int, _Buffers] = {}
        self._graphs: Graphs[int, Tensor] | None = None

    def record(self, pool: GraphPool, max_tokens: int) -> None:
        """Make graphs of steps up to `max_tokens`."""
        self._sizes = mixed_sizes(max_tokens)
        max_seqs = self._model.limits.max_seqs
        self._buffers = {size: _Buffers.make(size, min(size, max_seqs), self._device) for size in self._sizes}
        graphs: Graphs[int, Tensor] = Graphs(pool)
        graphs.record("prefills", self._sizes[::-1], self._recorded)
        self._graphs = graphs

    def run(self, batch: Batch) -> Chosen:
        """Launch a step; the pages of its sequences are on the device."""
        model = self._model
        columns = mixed_columns(batch, model.limits.page_size)
        sequences = [scheduled.sequence for scheduled in batch.scheduled if scheduled.samples]
        needs = needs_of(sequences)
        size = self._recorded_size(columns, batch.num_decodes)
        if size is None or self._graphs is None:
            hidden_states = self._launch(columns, batch.num_decodes)
        else:
            buffers = self._buffers[size]
            buffers.words.copy_(model.staging.upload(buffers.padded(columns)))
            self._fill_in_decodes(buffers.tokens[0], buffers.sequences[0], batch.num_decodes)
            hidden_states = self._graphs.replay(size)[: len(sequences)]
        # Every sequence comes by here first. The kernels above need not wait for what only sampling needs.
        model.enter(scheduled.sequence for scheduled in batch.scheduled)
        table_rows, context_lens = model.staging.upload(columns.samplers[1:].ravel()).view(2, -1)
        logits = model.decoder.logits(hidden_states)
        token_ids = model.choose(logits, table_rows, context_lens, needs) if sequences else None
        return Chosen(sequences, token_ids, logits, needs, size is not None)

    def _recorded_size(self, columns: MixedColumns, num_decodes: int) -> int | None:
        size = next_size(self._sizes, columns.tokens.shape[1])
        if size is None or columns.sequences.shape[1] > self._buffers[size].sequences.shape[1]:
            return None
        longest = columns.sequences[1, :num_decodes].max(initial=0)
        return size if longest <= _MAX_RECORDED_CONTEXT else None

    def _fill_in_decodes(self, token_ids: Tensor, table_rows: Tensor, num_decodes: int) -> None:
        """The last ids of decodes, which only the device knows."""
        if num_decodes:
            token_ids[:num_decodes].copy_(self._model.tables.last_ids[table_rows[:num_decodes]])

    def _launch(self, columns: MixedColumns, num_decodes: int) -> Tensor:
        """Every kernel by itself; decodes have a kernel of their own."""
        model = self._model
        starts = np.cumsum([0, *columns.token_counts[num_decodes:]], dtype=np.int32)
        parts = [columns.tokens, columns.sequences, starts, columns.samplers[0]]
        words = model.staging.upload(np.concatenate([part.ravel() for part in parts]))
        tokens, sequences, chunk_starts, logit_rows = torch.split(words, [part.size for part in parts])
        token_ids, positions, slots = tokens.view(3, -1)
        table_rows, context_lens = sequences.view(2, -1)
        self._fill_in_decodes(token_ids, table_rows, num_decodes)
        inputs = ForwardInputs(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=slots,
            page_tables=model.tables.page_tables,
            table_rows=table_rows,
            context_lens=context_lens,
            num_decodes=num_decodes,
            decode_plan=model.kernels.plan_decodes(context_lens[:num_decodes]) if num_decodes else None,
            chunk_starts=chunk_starts,
            max_chunk_len=max(columns.token_counts[num_decodes:]),
            logit_rows=logit_rows,
        )
        return model.decoder.hidden_states(inputs, model.kv_layers)

    def _recorded(self, size: int) -> Tensor:
        """What the graph of a size does: all sequences are chunks."""
        model, buffers = self._model, self._buffers[size]
        token_ids, positions, slots = buffers.tokens.unbind()
        table_rows, context_lens = buffers.sequences.unbind()
        inputs = ForwardInputs(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=slots,
            page_tables=model.tables.page_tables,
            table_rows=table_rows,
            context_lens=context_lens,
            num_decodes=0,
            decode_plan=None,
            chunk_starts=buffers.starts,
            max_chunk_len=size,
            logit_rows=buffers.logit_rows,
        )
        return model.decoder.hidden_states(inputs, model.kv_layers)
