"""One parametrised decoder: Llama, Mistral, Qwen2 and Qwen3 differ only in what `ModelConfig` says."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gpu_worker.kernels.kernels import Kernels
from gpu_worker.models.config import ModelConfig
from gpu_worker.models.forward_inputs import ForwardInputs
from gpu_worker.models.rope import rope_tables
from gpu_worker.models.weights import DecoderWeights, LayerWeights

KvLayer = tuple[Tensor, Tensor]


class Decoder:
    """Stateless but for its weights: keys and values live in the caches that it is given."""

    def __init__(self, config: ModelConfig, weights: DecoderWeights, context_length: int, kernels: Kernels) -> None:
        self.config = config
        self._kernels = kernels
        self._weights = weights
        dtype = torch.promote_types(weights.norm.dtype, torch.float32)
        cos, sin = rope_tables(config.rope, context_length, dtype)
        self._cos, self._sin = (table.to(weights.norm.device) for table in (cos, sin))
        self._scale = config.head_dim**-0.5
        # A window that the context cannot exceed hides nothing.
        self._windows = [None if w is None or w >= context_length else w for w in config.sliding_windows]

    @property
    def num_weight_bytes(self) -> int:
        """Memory that the weights take."""
        return self._weights.num_bytes

    def forward(self, inputs: ForwardInputs, kv_layers: list[KvLayer]) -> Tensor:
        """Logits of the wanted rows, [num_rows, vocab_size]; writes this step's keys and values."""
        return self.logits(self.hidden_states(inputs, kv_layers))

    def logits(self, hidden_states: Tensor) -> Tensor:
        """[num_rows, vocab_size] of what `hidden_states` gave."""
        if not len(hidden_states):
            return hidden_states.new_empty((0, self.config.vocab_size))
        weights = self._weights
        return self._kernels.norm_linear(hidden_states, weights.norm, self.config.rms_norm_eps, weights.lm_head, None)

    def hidden_states(self, inputs: ForwardInputs, kv_layers: list[KvLayer]) -> Tensor:
        """What the last layer leaves of the wanted rows, [num_rows, hidden_size], before the last normalisation.

        All others are done with once their keys and values are written: of the last layer nobody reads more of them.
        """
        weights, eps, kernels = self._weights, self.config.rms_norm_eps, self._kernels
        residual = F.embedding(inputs.token_ids, weights.embedding)
        for layer, window, kv in zip(weights.layers, self._windows, kv_layers, strict=True):
            qkv = kernels.norm_linear(residual, layer.input_norm, eps, layer.qkv, layer.qkv_bias)
            attended = self._attention(layer, qkv, inputs, kv, window)
            if layer is weights.layers[-1] and inputs.logit_rows is not None:
                attended, residual = attended[inputs.logit_rows], residual[inputs.logit_rows]
                if not len(residual):
                    break
            kernels.linear_add_(attended, layer.output, layer.output_bias, residual)
            hidden = kernels.norm_gate_up(residual, layer.post_attention_norm, eps, layer.gate_up, layer.gate_up_bias)
            kernels.linear_add_(hidden, layer.down, layer.down_bias, residual)
        return residual

    def _attention(
        self, layer: LayerWeights, qkv: Tensor, inputs: ForwardInputs, kv: KvLayer, window: int | None
    ) -> Tensor:
        """From projections [num_tokens, ...] to attended values [num_tokens, num_heads * head_dim]."""
        if not inputs.num_chunks:
            return self._only_decodes(layer, qkv, inputs, kv, window)
        query = self._kernels.rope_write_kv(
            qkv,
            self._cos,
            self._sin,
            inputs.positions,
            layer.query_norm,
            layer.key_norm,
            self.config.rms_norm_eps,
            *kv,
            inputs.slot_mapping,
        )
        chunks = self._chunks(query, inputs, kv, window)
        if not inputs.num_decodes:
            return chunks.flatten(1)
        return torch.cat((self._decodes(query, inputs, kv, window), chunks)).flatten(1)

    def _only_decodes(
        self, layer: LayerWeights, qkv: Tensor, inputs: ForwardInputs, kv: KvLayer, window: int | None
    ) -> Tensor:
        attended = self._kernels.rope_decode_attention(
            qkv,
            self._cos,
            self._sin,
            layer.query_norm,
            layer.key_norm,
            self.config.rms_norm_eps,
            *kv,
            inputs.slot_mapping,
            inputs.page_tables,
            inputs.table_rows,
            inputs.context_lens,
            inputs.decode_plan,
            self._scale,
            window,
        )
        return attended.flatten(1)

    def _decodes(self, query: Tensor, inputs: ForwardInputs, kv: KvLayer, window: int | None) -> Tensor:
        num_decodes, rows = inputs.num_decodes, inputs.table_rows
        return self._kernels.paged_decode_attention(
            query[:num_decodes],
            *kv,
            inputs.page_tables if rows is not None else inputs.page_tables[:num_decodes],
            rows[:num_decodes] if rows is not None else None,
            inputs.context_lens[:num_decodes],
            inputs.decode_plan,
            self._scale,
            window,
        )

    def _chunks(self, query: Tensor, inputs: ForwardInputs, kv: KvLayer, window: int | None) -> Tensor:
        num_decodes, rows = inputs.num_decodes, inputs.table_rows
        assert inputs.chunk_starts is not None, "there are chunks"
        return self._kernels.paged_prefill_attention(
            query[num_decodes:],
            *kv,
            inputs.page_tables if rows is not None else inputs.page_tables[num_decodes:],
            rows[num_decodes:] if rows is not None else None,
            inputs.chunk_starts,
            inputs.context_lens[num_decodes:],
            inputs.max_chunk_len,
            self._scale,
            window,
        )
