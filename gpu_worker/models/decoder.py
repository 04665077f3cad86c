"""One parametrised decoder: Llama, Mistral, Qwen2 and Qwen3 differ only in what `ModelConfig` says."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gpu_worker.kernels.activation import silu_mul
from gpu_worker.kernels.attention import paged_decode_attention, paged_prefill_attention
from gpu_worker.kernels.norm import add_rms_norm, rms_norm
from gpu_worker.kernels.rope import apply_rope, write_kv
from gpu_worker.models.config import ModelConfig
from gpu_worker.models.forward_inputs import ForwardInputs
from gpu_worker.models.rope import rope_tables
from gpu_worker.models.weights import DecoderWeights, LayerWeights

KvLayer = tuple[Tensor, Tensor]


class Decoder:
    """Stateless but for its weights: keys and values live in the caches that it is given."""

    def __init__(self, config: ModelConfig, weights: DecoderWeights, context_length: int) -> None:
        self.config = config
        self._weights = weights
        dtype = torch.promote_types(weights.norm.dtype, torch.float32)
        cos, sin = rope_tables(config.rope, context_length, dtype)
        # [num_positions, 1, head_dim], so that a row broadcasts over heads.
        self._cos, self._sin = (table.to(weights.norm.device)[:, None] for table in (cos, sin))
        self._scale = config.head_dim**-0.5
        self._query_size = config.num_heads * config.head_dim
        # A window that the context cannot exceed hides nothing.
        self._windows = [None if w is None or w >= context_length else w for w in config.sliding_windows]

    @property
    def num_weight_bytes(self) -> int:
        """Memory that the weights take."""
        return self._weights.num_bytes

    def forward(self, inputs: ForwardInputs, kv_layers: list[KvLayer]) -> Tensor:
        """Logits of the wanted rows, [num_rows, vocab_size]; writes this step's keys and values."""
        weights, eps = self._weights, self.config.rms_norm_eps
        cos, sin = self._cos[inputs.positions], self._sin[inputs.positions]
        residual = F.embedding(inputs.token_ids, weights.embedding)
        normed = rms_norm(residual, weights.layers[0].input_norm, eps)
        following = [layer.input_norm for layer in weights.layers[1:]] + [weights.norm]
        for layer, window, kv, next_norm in zip(weights.layers, self._windows, kv_layers, following, strict=True):
            hidden = self._attention(layer, normed, cos, sin, inputs, kv, window)
            normed, residual = add_rms_norm(hidden, residual, layer.post_attention_norm, eps)
            gate_up = F.linear(normed, layer.gate_up, layer.gate_up_bias)
            hidden = F.linear(silu_mul(gate_up), layer.down, layer.down_bias)
            normed, residual = add_rms_norm(hidden, residual, next_norm, eps)
        wanted = normed if inputs.logit_rows is None else normed[inputs.logit_rows]
        return F.linear(wanted, weights.lm_head)

    def _attention(
        self,
        layer: LayerWeights,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        inputs: ForwardInputs,
        kv: KvLayer,
        window: int | None,
    ) -> Tensor:
        config = self.config
        num_rotated = config.num_heads + config.num_kv_heads
        qkv = F.linear(hidden, layer.qkv, layer.qkv_bias).view(hidden.shape[0], -1, config.head_dim)
        rotated, value = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if layer.query_norm is not None and layer.key_norm is not None:
            query = rms_norm(rotated[:, : config.num_heads], layer.query_norm, config.rms_norm_eps)
            key = rms_norm(rotated[:, config.num_heads :], layer.key_norm, config.rms_norm_eps)
            rotated = torch.cat((query, key), dim=1)
        rotated = apply_rope(rotated, cos, sin)
        query, key = rotated[:, : config.num_heads], rotated[:, config.num_heads :]
        write_kv(key, value, *kv, inputs.slot_mapping)
        attended = self._attend(query, kv, inputs, window)
        return F.linear(attended.reshape(-1, self._query_size), layer.output, layer.output_bias)

    def _attend(self, query: Tensor, kv: KvLayer, inputs: ForwardInputs, window: int | None) -> Tensor:
        num_decodes, scale = inputs.num_decodes, self._scale
        outs = []
        if num_decodes:
            outs.append(
                paged_decode_attention(
                    query[:num_decodes],
                    *kv,
                    inputs.page_tables[:num_decodes],
                    inputs.context_lens[:num_decodes],
                    inputs.max_decode_context_len,
                    scale,
                    window,
                )
            )
        if inputs.chunk_lens:
            tables, lens = inputs.page_tables[num_decodes:], inputs.chunk_lens
            chunks = query[num_decodes:]
            outs.append(paged_prefill_attention(chunks, *kv, tables, lens, inputs.chunk_context_lens, scale, window))
        return outs[0] if len(outs) == 1 else torch.cat(outs)
