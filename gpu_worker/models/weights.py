"""The parameters of a decoder, and which tensor of a published checkpoint fills which part of them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gpu_worker.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. `qkv` stacks the query, key and value projections, `gate_up` the two of the feed-forward."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    post_attention_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All of a decoder; with tied embeddings `lm_head` is `embedding` itself."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    lm_head: Tensor

    @property
    def num_bytes(self) -> int:
        """What they take, each tensor once."""
        parts = [self.embedding, self.norm, self.lm_head]
        for layer in self.layers:
            parts += [part for field in fields(layer) if (part := getattr(layer, field.name)) is not None]
        return sum({part.data_ptr(): part.nbytes for part in parts}.values())


def allocate_weights(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> DecoderWeights:
    """Uninitialised parameters of the right shapes.

    On a CPU a wide matrix [out > in] lies in memory by its columns: a product with few rows then streams it 1.5 to
    2.8 times faster (measured with MKL in float32, matrices beyond the cache), and one with many rows no slower.
    """

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    def matrix(num_out: int, num_in: int) -> Tensor:
        return empty(num_in, num_out).t() if device.type == "cpu" and num_out > num_in else empty(num_out, num_in)

    def optional(present: bool, *shape: int) -> Tensor | None:
        return empty(*shape) if present else None

    hidden, ffn = config.hidden_size, config.intermediate_size
    query_size = config.num_heads * config.head_dim
    qkv_size = query_size + 2 * config.num_kv_heads * config.head_dim
    layers = tuple(
        LayerWeights(
            input_norm=empty(hidden),
            qkv=matrix(qkv_size, hidden),
            qkv_bias=optional(config.has_qkv_bias, qkv_size),
            query_norm=optional(config.has_qk_norm, config.head_dim),
            key_norm=optional(config.has_qk_norm, config.head_dim),
            output=matrix(hidden, query_size),
            output_bias=optional(config.has_output_bias, hidden),
            post_attention_norm=empty(hidden),
            gate_up=matrix(2 * ffn, hidden),
            gate_up_bias=optional(config.has_mlp_bias, 2 * ffn),
            down=matrix(hidden, ffn),
            down_bias=optional(config.has_mlp_bias, hidden),
        )
        for _ in range(config.num_layers)
    )
    lm_head = matrix(config.vocab_size, hidden)
    embedding = lm_head if config.ties_embeddings else empty(config.vocab_size, hidden)
    return DecoderWeights(embedding, layers, empty(hidden), lm_head)


def checkpoint_targets(config: ModelConfig, weights: DecoderWeights) -> dict[str, Tensor]:
    """The view of the parameters that each tensor name of a Llama-shaped checkpoint fills."""
    targets = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    if not config.ties_embeddings:
        targets["lm_head.weight"] = weights.lm_head
    for index, layer in enumerate(weights.layers):
        for name, view in _layer_targets(config, layer):
            if view is not None:
                targets[f"model.layers.{index}.{name}"] = view
    return targets


def _layer_targets(config: ModelConfig, layer: LayerWeights) -> Iterator[tuple[str, Tensor | None]]:
    yield "input_layernorm.weight", layer.input_norm
    yield "post_attention_layernorm.weight", layer.post_attention_norm
    yield "self_attn.q_norm.weight", layer.query_norm
    yield "self_attn.k_norm.weight", layer.key_norm
    yield "self_attn.o_proj.weight", layer.output
    yield "self_attn.o_proj.bias", layer.output_bias
    yield "mlp.down_proj.weight", layer.down
    yield "mlp.down_proj.bias", layer.down_bias
    kv_size = config.num_kv_heads * config.head_dim
    sizes = [config.num_heads * config.head_dim, kv_size, kv_size]
    yield from _parts("self_attn.{}_proj", "qkv", sizes, layer.qkv, layer.qkv_bias)
    halves = [config.intermediate_size] * 2
    yield from _parts("mlp.{}_proj", ("gate", "up"), halves, layer.gate_up, layer.gate_up_bias)


def _parts(
    pattern: str, names: str | tuple[str, ...], sizes: list[int], weight: Tensor, bias: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """The rows of a stacked projection, by the names of the projections that it stacks."""
    for name, view in zip(names, torch.split(weight, sizes), strict=True):
        yield f"{pattern.format(name)}.weight", view
    if bias is not None:
        for name, view in zip(names, torch.split(bias, sizes), strict=True):
            yield f"{pattern.format(name)}.bias", view
