"""Rotary position embedding (https://arxiv.org/abs/2104.09864), and the write of keys and values into their pages."""

import torch
from torch import Tensor


def apply_rope(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate [num_tokens, num_heads, head_dim] by the angles of each token's position.

    `cos` and `signed_sin` are [num_tokens, 1, head_dim]; the first half of `signed_sin` is negated, so that a
    rotation is `x * cos + swapped(x) * signed_sin`, where `swapped` exchanges the halves.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * cos, swapped, signed_sin).to(heads.dtype)


def write_kv(key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Store [num_tokens, num_kv_heads, head_dim] at the slots [num_tokens] of a paged cache."""
    k_cache.flatten(0, 1).index_copy_(0, slot_mapping, key)
    v_cache.flatten(0, 1).index_copy_(0, slot_mapping, value)
