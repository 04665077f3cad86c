"""Runs batches on a device that keeps what it needs between steps, so that the host can be one step ahead.

The ids that a step samples stay on the device, where the next step finds them; the host reads them when they are there.
"""

import torch

from gpu_worker.execution.decode_steps import DecodeSteps
from gpu_worker.execution.device_model import DeviceLimits, DeviceModel
from gpu_worker.execution.device_tables import DeviceTables
from gpu_worker.execution.downloads import Download, Downloads, as_found
from gpu_worker.execution.graphs import GraphPool
from gpu_worker.execution.mixed_steps import MixedSteps
from gpu_worker.execution.sampling_needs import Needs
from gpu_worker.execution.sampling_tables import SamplingTables
from gpu_worker.execution.staging import StagingRing
from gpu_worker.kernels.kernels import Kernels
from gpu_worker.models.decoder import Decoder, KvLayer
from gpu_worker.scheduling.batch import Batch


class DeviceRunner:
    """Owns the model and the tables of running sequences."""

    def __init__(self, decoder: Decoder, kv_layers: list[KvLayer], kernels: Kernels, limits: DeviceLimits) -> None:
        device = kv_layers[0][0].device
        staging = StagingRing(device)
        num_rows = limits.max_seqs + 1  # the last is nobody's: padding of a batch may name it
        tables = DeviceTables(num_rows, limits.max_pages, device, staging)
        sampling = SamplingTables(num_rows, decoder.config.vocab_size, device)
        self._model = DeviceModel(decoder, kv_layers, kernels, tables, sampling, staging, limits)
        self._decodes = DecodeSteps(self._model)
        self._mixed = MixedSteps(self._model)
        self._downloads = Downloads(limits.max_seqs, device)

    @torch.inference_mode()
    def record(self, max_decodes: int, max_mixed_tokens: int) -> None:
        """Make CUDA graphs of decode steps of up to so many sequences, and of mixed steps of up to so many tokens."""
        pool = GraphPool()
        if max_mixed_tokens:
            self._mixed.record(pool, max_mixed_tokens)
        if max_decodes:
            self._decodes.record(pool, max_decodes)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Download:
        """Queue a batch on the device; nothing here waits for it. Raises `DeviceLostError`."""
        try:
            return self._launch(batch)
        except RuntimeError as error:
            raise as_found(error) from error

    def _launch(self, batch: Batch) -> Download:
        self._sync(batch)
        has_chunks = batch.num_decodes < len(batch.scheduled)
        chosen = self._mixed.run(batch) if has_chunks else self._decodes.run(batch)
        if chosen.token_ids is None:
            return self._downloads.nothing(chosen.has_graph)
        asked = None
        if chosen.needs & Needs.LOGPROBS:
            asked = self._model.sampling.logprobs(chosen.logits, chosen.token_ids, chosen.sequences)
        return self._downloads.start(chosen.token_ids, asked, chosen.has_graph)

    def _sync(self, batch: Batch) -> None:
        """Bring the page tables up to date."""
        is_repeated = batch.run is not None
        sequences = batch.grown if is_repeated else [scheduled.sequence for scheduled in batch.scheduled]
        self._model.tables.sync_pages(sequences)
