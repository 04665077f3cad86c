"""Rotary position embedding, with the normalisation before it and the write of keys and values after it, in one launch.

The heads of all tokens are one list of rows, so that a program has the same work whatever the number of heads is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

# Below this many rows a program takes as few as one warp can, so that one token spreads over many processors.
_FEW_ROWS = 2048
# Elements of one half of a head that a thread holds: 16 bytes of bfloat16.
_ELEMENTS_PER_THREAD = 8


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

    As in `torch_ops`, with contiguous caches and float32 tables. A token whose slot is negative fills up a batch:
    nothing of it is written to the caches.
    """
    num_kv_heads, head_dim = k_cache.shape[-2:]
    num_tokens = qkv.shape[0]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    num_rows = num_tokens * (num_heads + 2 * num_kv_heads)
    block_rows, block_half, num_warps = _blocks(num_rows, head_dim)
    dependent = is_dependent(qkv)
    _rope_kernel[(triton.cdiv(num_rows, block_rows),)](
        out,
        k_cache,
        v_cache,
        qkv,
        cos,
        signed_sin,
        positions,
        slot_mapping,
        query_norm,
        key_norm,
        num_rows,
        eps,
        qkv.stride(0),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_ROWS=block_rows,
        BLOCK_HALF=block_half,
        DEPENDENT=dependent,
        num_warps=num_warps,
        launch_pdl=dependent,
    )
    return out


def _blocks(num_rows: int, head_dim: int) -> tuple[int, int, int]:
    """Rows of a program, columns of half a head, warps."""
    block_half = triton.next_power_of_2(head_dim // 2)
    num_warps = 1 if num_rows < _FEW_ROWS else 4
    block_rows = 32 * num_warps * _ELEMENTS_PER_THREAD // block_half
    return max(block_rows, 1), block_half, num_warps


@triton.jit(
    do_not_specialize=["num_rows"],
    do_not_specialize_on_alignment=["positions", "slot_mapping"],
)
def _rope_kernel(
    out,
    k_cache,
    v_cache,
    qkv,
    cos,
    signed_sin,
    positions,
    slot_mapping,
    query_norm,
    key_norm,
    num_rows,
    eps,
    qkv_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    NUM_ROWS_PER_TOKEN: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    HALF: tl.constexpr = HEAD_DIM // 2
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = rows < num_rows
    tokens = rows // NUM_ROWS_PER_TOKEN
    heads = rows % NUM_ROWS_PER_TOKEN
    dims = tl.arange(0, BLOCK_HALF)
    inside = exists[:, None] & (dims < HALF)[None, :]
    rotates = heads < NUM_HEADS + NUM_KV_HEADS

    place = tokens.to(tl.int64)[:, None] * qkv_stride + (heads * HEAD_DIM)[:, None] + dims[None, :]
    low = tl.load(qkv + place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(qkv + place + HALF, mask=inside, other=0.0).to(tl.float32)
    position = tl.load(positions + tokens, mask=exists, other=0).to(tl.int64)
    slot = tl.load(slot_mapping + tokens, mask=exists, other=-1).to(tl.int64)

    if query_norm is not None:
        # Values pass unchanged: they get the factor one.
        is_query = (heads < NUM_HEADS)[:, None]
        in_half = dims < HALF
        low_weight = tl.where(
            is_query,
            tl.load(query_norm + dims, mask=in_half, other=0.0).to(tl.float32)[None, :],
            tl.load(key_norm + dims, mask=in_half, other=0.0).to(tl.float32)[None, :],
        )
        high_weight = tl.where(
            is_query,
            tl.load(query_norm + HALF + dims, mask=in_half, other=0.0).to(tl.float32)[None, :],
            tl.load(key_norm + HALF + dims, mask=in_half, other=0.0).to(tl.float32)[None, :],
        )
        inverse = tl.rsqrt(tl.sum(low * low + high * high, axis=1) / HEAD_DIM + eps)[:, None]
        low = tl.where(rotates[:, None], low * inverse * low_weight, low)
        high = tl.where(rotates[:, None], high * inverse * high_weight, high)

    # Both halves of a table hold the same angles, the first half of the sine negated. Values turn by no angle.
    turned = inside & rotates[:, None]
    angle = position[:, None] * HEAD_DIM + dims[None, :]
    cosine = tl.load(cos + angle, mask=turned, other=1.0).to(tl.float32)
    sine = tl.load(signed_sin + angle + HALF, mask=turned, other=0.0).to(tl.float32)
    first = low * cosine - high * sine
    second = high * cosine + low * sine

    to_query = inside & (heads < NUM_HEADS)[:, None]
    query_place = ((tokens.to(tl.int64) * NUM_HEADS + heads) * HEAD_DIM)[:, None] + dims[None, :]
    tl.store(out + query_place, first.to(out.dtype.element_ty), mask=to_query)
    tl.store(out + query_place + HALF, second.to(out.dtype.element_ty), mask=to_query)

    cached = inside & (slot >= 0)[:, None]
    to_key = cached & ((heads >= NUM_HEADS) & rotates)[:, None]
    key_place = ((slot * NUM_KV_HEADS + heads - NUM_HEADS) * HEAD_DIM)[:, None] + dims[None, :]
    tl.store(k_cache + key_place, first.to(k_cache.dtype.element_ty), mask=to_key)
    tl.store(k_cache + key_place + HALF, second.to(k_cache.dtype.element_ty), mask=to_key)

    to_value = cached & (heads >= NUM_HEADS + NUM_KV_HEADS)[:, None]
    value_place = key_place - NUM_KV_HEADS * HEAD_DIM
    tl.store(v_cache + value_place, first.to(v_cache.dtype.element_ty), mask=to_value)
    tl.store(v_cache + value_place + HALF, second.to(v_cache.dtype.element_ty), mask=to_value)
