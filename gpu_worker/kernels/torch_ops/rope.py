"""Rotary position embedding (https://arxiv.org/abs/2104.09864), and the write of keys and values into their pages."""

import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops.norm import rms_norm


def apply_rope(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate [num_tokens, num_heads, head_dim] by the angles of each token's position.

    `cos` and `signed_sin` are [num_tokens, 1, head_dim]; the first half of `signed_sin` is negated, so that a
    rotation is `x * cos + swapped(x) * signed_sin`, where `swapped` exchanges the halves.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * cos, swapped, signed_sin).to(heads.dtype)


def rope_write_kv(
    qkv: Tensor,
    cos: Tensor,
    signed_sin: Tensor,
    positions: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
) -> Tensor:
    """From stacked projections to rotated queries [num_tokens, num_heads, head_dim]; keys and values go to their pages.

    `qkv` is [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] and may be overwritten; `cos` and `signed_sin` are
    tables [num_positions, head_dim] (see `apply_rope`); `query_norm` and `key_norm` [head_dim] normalise each head
    before the rotation (Qwen3); `positions` and `slot_mapping` are [num_tokens].
    """
    num_kv_heads, head_dim = k_cache.shape[-2:]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    rotated, value = heads[:, :-num_kv_heads], heads[:, -num_kv_heads:]
    if query_norm is not None and key_norm is not None:
        query = rms_norm(rotated[:, :num_heads], query_norm, eps)
        key = rms_norm(rotated[:, num_heads:], key_norm, eps)
        rotated = torch.cat((query, key), dim=1)
    rotated = apply_rope(rotated, *(table.index_select(0, positions)[:, None] for table in (cos, signed_sin)))
    write_kv(rotated[:, num_heads:], value, k_cache, v_cache, slot_mapping)
    return rotated[:, :num_heads]


def write_kv(key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Store [num_tokens, num_kv_heads, head_dim] at the slots [num_tokens] of a paged cache."""
    slots = slot_mapping.long()
    k_cache.flatten(0, 1).index_copy_(0, slots, key)
    v_cache.flatten(0, 1).index_copy_(0, slots, value)
