"""Runs a batch through the model and samples, one step after the other."""

from dataclasses import dataclass

import torch

from gpu_worker.execution.forward_inputs import build_forward_inputs
from gpu_worker.execution.sampler import sample_tokens
from gpu_worker.models.decoder import Decoder, KvLayer
from gpu_worker.scheduling.batch import Batch, SampledTokens


@dataclass(frozen=True, slots=True)
class Finished:
    """A step that is through."""

    sampled: SampledTokens

    def result(self) -> SampledTokens:
        """Without waiting."""
        return self.sampled


class ModelRunner:
    """Owns the decoder and its KV memory."""

    def __init__(self, decoder: Decoder, kv_layers: list[KvLayer]) -> None:
        self._decoder = decoder
        self._kv_layers = kv_layers
        key_cache, _ = kv_layers[0]
        self._page_size = key_cache.shape[1]
        self._device = key_cache.device

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Finished:
        """Execute a batch, all of it before this returns."""
        inputs = build_forward_inputs(batch, self._page_size, self._device)
        logits = self._decoder.forward(inputs, self._kv_layers)
        sequences = [scheduled.sequence for scheduled in batch.scheduled if scheduled.samples]
        return Finished(sample_tokens(logits, sequences))
