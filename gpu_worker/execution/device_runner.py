"""Runs batches on a device that keeps what it needs between steps, so that the host can be one step ahead.

The ids that a step samples stay on the device, where the next step finds them; the host reads them when they are there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.execution.decode_buffers import DecodeBuffers
from gpu_worker.execution.decode_graphs import DecodeGraphs
from gpu_worker.execution.device_tables import DeviceTables
from gpu_worker.execution.downloads import Download, Downloads
from gpu_worker.execution.forward_inputs import mixed_columns
from gpu_worker.execution.sampling_needs import Needs, needs_of
from gpu_worker.execution.sampling_tables import SamplingTables
from gpu_worker.execution.staging import StagingRing
from gpu_worker.kernels.kernels import Kernels
from gpu_worker.models.decoder import Decoder, KvLayer
from gpu_worker.models.forward_inputs import ForwardInputs
from gpu_worker.scheduling.batch import Batch
from gpu_worker.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """How many sequences run at once, how many pages each has at most, how many tokens a page holds."""

    max_seqs: int
    max_pages: int
    page_size: int


@dataclass(frozen=True, slots=True)
class _Samplers:
    """The sequences of a batch that sample, their table rows, and what their parameters need."""

    sequences: list[Sequence]
    rows: Tensor
    needs: Needs


class DeviceRunner:
    """Owns the decoder, its KV memory and the tables of running sequences."""

    def __init__(
        self,
        decoder: Decoder,
        kv_layers: list[KvLayer],
        kernels: Kernels,
        limits: DeviceLimits,
        sampling: SamplingTables,
    ) -> None:
        self._decoder = decoder
        self._kv_layers = kv_layers
        self._kernels = kernels
        self._page_size = limits.page_size
        self._device = kv_layers[0][0].device
        self._staging = StagingRing(self._device)
        self._tables = DeviceTables(limits.max_seqs, limits.max_pages, self._device, self._staging)
        self._decode = DecodeBuffers(limits.max_seqs, self._device)
        self._sampling = sampling
        self._downloads = Downloads(limits.max_seqs, self._device)
        self._graphs: DecodeGraphs | None = None
        self._last: _Samplers | None = None

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Download:
        """Queue a batch on the device; nothing here waits for it."""
        self._sync(batch)
        if batch.num_decodes == len(batch.scheduled):
            samplers = self._begin_decodes(batch)
            logits, context_lens = self._run_decodes(batch.num_decodes)
        else:
            samplers, logits, context_lens = self._run_mixed(batch)
        self._last = samplers
        return self._sample(logits, context_lens, samplers)

    @torch.inference_mode()
    def capture(self, batch_sizes: list[int]) -> None:
        """Record decode steps of these sizes as CUDA graphs; larger and mixed steps stay as they are."""
        self._graphs = DecodeGraphs(self._forward_decodes, batch_sizes)

    def _sync(self, batch: Batch) -> None:
        if batch.run is not None:
            self._tables.sync_pages(batch.grown)
            return
        sequences = [scheduled.sequence for scheduled in batch.scheduled]
        entering = [sequence for sequence in sequences if not sequence.is_on_device]
        if entering:
            self._tables.enter(entering)
            for sequence in entering:
                self._sampling.enter(sequence.table_row, sequence)
                sequence.is_on_device = True
            self._sampling.flush()
        self._tables.sync_pages(sequences)

    def _begin_decodes(self, batch: Batch) -> _Samplers:
        """Tell the device which sequences decode, unless they are those of the step before."""
        if batch.run is not None:
            assert self._last is not None, "there is a step to repeat"
            return self._last
        sequences = [scheduled.sequence for scheduled in batch.scheduled]
        columns = [(sequence.table_row, sequence.num_computed_tokens) for sequence in sequences]
        self._decode.load(columns, self._staging)
        rows = self._decode.first(len(sequences)).table_rows
        return _Samplers(sequences, rows, needs_of(sequences))

    def _run_decodes(self, num_seqs: int) -> tuple[Tensor, Tensor]:
        """Logits and context lengths of a step in which every sequence decodes."""
        bucket = self._graphs.bucket(num_seqs) if self._graphs is not None else None
        if self._graphs is not None and bucket is not None:
            logits = self._graphs.replay(bucket)[:num_seqs]
        else:
            logits = self._forward_decodes(num_seqs)
        return logits, self._decode.first(num_seqs).context_lens

    def _forward_decodes(self, num_seqs: int) -> Tensor:
        """One token of the first `num_seqs` sequences in the decode buffers. Graph-safe."""
        decode, tables = self._decode.first(num_seqs), self._tables
        self._kernels.begin_decode_(
            decode.table_rows,
            decode.context_lens,
            tables.last_ids,
            tables.page_tables,
            self._page_size,
            decode.token_ids,
            decode.positions,
            decode.slot_mapping,
        )
        inputs = ForwardInputs(
            token_ids=decode.token_ids,
            positions=decode.positions,
            slot_mapping=decode.slot_mapping,
            page_tables=tables.page_tables,
            table_rows=decode.table_rows,
            context_lens=decode.context_lens,
            num_decodes=num_seqs,
            decode_plan=self._kernels.plan_decodes(decode.context_lens),
            chunk_starts=None,
            max_chunk_len=0,
            logit_rows=None,
        )
        return self._decoder.forward(inputs, self._kv_layers)

    def _run_mixed(self, batch: Batch) -> tuple[_Samplers, Tensor, Tensor]:
        """A step with chunks of prefills."""
        num_decodes = batch.num_decodes
        columns = mixed_columns(batch, self._page_size)
        parts = [columns.tokens, columns.sequences, columns.samplers, columns.chunk_starts]
        words = self._staging.upload(np.concatenate([part.ravel() for part in parts]))
        tokens, places, samplers, chunk_starts = words.split([part.size for part in parts])
        token_ids, positions, slots = tokens.view(3, -1)
        table_rows, context_lens = places.view(2, -1)
        logit_rows, sampler_places = samplers.view(2, -1)
        if num_decodes:
            token_ids[:num_decodes].copy_(self._tables.last_ids[table_rows[:num_decodes]])
        inputs = ForwardInputs(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=slots,
            page_tables=self._tables.page_tables,
            table_rows=table_rows,
            context_lens=context_lens,
            num_decodes=num_decodes,
            decode_plan=self._kernels.plan_decodes(context_lens[:num_decodes]) if num_decodes else None,
            chunk_starts=chunk_starts,
            max_chunk_len=int(np.diff(columns.chunk_starts).max()),
            logit_rows=logit_rows,
        )
        logits = self._decoder.forward(inputs, self._kv_layers)
        sampling = [scheduled.sequence for scheduled in batch.scheduled if scheduled.samples]
        return (
            _Samplers(sampling, table_rows[sampler_places], needs_of(sampling)),
            logits,
            context_lens[sampler_places],
        )

    def _sample(self, logits: Tensor, context_lens: Tensor, samplers: _Samplers) -> Download:
        """Choose the next ids, leave them for the next step, and send them to the host."""
        if not samplers.sequences:
            return self._downloads.nothing()
        rows, needs = samplers.rows, samplers.needs
        output_indexes = context_lens if needs is Needs.NOTHING else context_lens - self._tables.prompt_lens[rows]
        token_ids = self._sampling.sample(logits, rows, output_indexes, needs)
        self._tables.last_ids[rows] = token_ids
        asked = self._sampling.logprobs(logits, token_ids, samplers.sequences) if needs & Needs.LOGPROBS else None
        return self._downloads.start(token_ids, asked)
