"""Attention of one query token per sequence over its paged context, split along the context (flash decoding)."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from gpu_worker.kernels.triton_ops.decode_combination import combine_split_sequences
from gpu_worker.kernels.triton_ops.decode_kernel import decode_kernel
from gpu_worker.kernels.triton_ops.decode_plan import DecodePlan
from gpu_worker.kernels.triton_ops.launch import is_dependent

# Whether the last program of a sequence combines its items, or a launch of its own.
_COMBINES_IN_PLACE = True
# From this many on, decodes are programs enough without being split.
_MANY_SEQUENCES = 128
_SMALL_HEAD = 64
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class DecodeBlocks:
    """How a program works: tokens per turn of its loop, turns whose loads overlap, warps, items combined at a time."""

    tokens: int
    num_stages: int
    num_warps: int
    combined_items: int = 8
    combines_in_place: bool = _COMBINES_IN_PLACE


def decode_blocks(dtype: torch.dtype, num_seqs: int, head_dim: int) -> DecodeBlocks:
    """What was fastest over the two shapes of `bench/kernel_cases/attention.py` on an H200."""
    if dtype.itemsize > 2:
        return DecodeBlocks(tokens=32, num_stages=2, num_warps=4)
    if num_seqs < _MANY_SEQUENCES:
        return DecodeBlocks(tokens=64, num_stages=3, num_warps=2)
    # More programs than run at once: what takes few registers and little shared memory lets more of them overlap.
    if head_dim <= _SMALL_HEAD:
        return DecodeBlocks(tokens=64, num_stages=3, num_warps=4)
    return DecodeBlocks(tokens=64, num_stages=2, num_warps=4, combined_items=2)


def paged_decode_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    context_lens: Tensor,
    plan: DecodePlan,
    scale: float,
    sliding_window: int | None = None,
    blocks: DecodeBlocks | None = None,
) -> Tensor:
    """One query token per sequence: [num_seqs, num_heads, head_dim] in and out.

    As in `torch_ops`, with contiguous caches and queries, and a plan that `plan_decode_` has filled for the same
    `context_lens`, which are not read again. Rows of context 0 become zero.
    """
    out = torch.empty_like(query)
    new_token = (None, None, None, None, 0.0, None)
    _launch(out, query, new_token, k_cache, v_cache, page_tables, table_rows, plan, scale, sliding_window, blocks)
    return out


def rope_decode_attention(
    qkv: Tensor,
    cos: Tensor,
    signed_sin: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    context_lens: Tensor,
    plan: DecodePlan,
    scale: float,
    sliding_window: int | None = None,
    blocks: DecodeBlocks | None = None,
) -> Tensor:
    """`rope_write_kv` of one token per sequence and `paged_decode_attention` in one launch.

    As in `torch_ops`; for the rest see `paged_decode_attention`. Of rows of context 0 nothing is written to the caches.
    """
    num_kv_heads, head_dim = k_cache.shape[-2:]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    out = torch.empty((len(qkv), num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    new_token = (cos, signed_sin, query_norm, key_norm, eps, slot_mapping)
    _launch(out, qkv, new_token, k_cache, v_cache, page_tables, table_rows, plan, scale, sliding_window, blocks)
    return out


def _launch(
    out: Tensor,
    query: Tensor,
    new_token: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, float, Tensor | None],
    k_cache: Tensor,
    v_cache: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    plan: DecodePlan,
    scale: float,
    sliding_window: int | None,
    blocks: DecodeBlocks | None,
) -> None:
    num_seqs, num_heads, head_dim = out.shape
    page_size, num_kv_heads = k_cache.shape[1], k_cache.shape[2]
    assert all(tensor.is_contiguous() for tensor in (query, k_cache, v_cache))
    blocks = blocks or decode_blocks(query.dtype, num_seqs, head_dim)
    group = num_heads // num_kv_heads
    block_heads = triton.next_power_of_2(group)
    dependent = is_dependent(query)
    decode_kernel[(num_kv_heads, num_seqs + plan.target_items)](
        out,
        plan.partial_out,
        plan.partial_lse,
        plan.arrivals,
        plan.items,
        plan.num_items,
        query,
        *new_token,
        k_cache,
        v_cache,
        page_tables,
        table_rows,
        page_tables.stride(0),
        scale * _LOG2_E,
        sliding_window or 0,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        PAGE_SIZE=page_size,
        BLOCK_ROWS=max(block_heads, 16),
        BLOCK_TOKENS=blocks.tokens,
        BLOCK_DIMS=max(triton.next_power_of_2(head_dim), 16),
        # What is combined at a time must fit the registers.
        BLOCK_ITEMS=max(min(blocks.combined_items, 64 // block_heads), 1),
        BLOCK_HEADS=block_heads,
        HAS_WINDOW=sliding_window is not None,
        # Offsets into the caches take 64 bits only if they must.
        IS_WIDE=k_cache.numel() >= 2**31,
        COMBINES_IN_PLACE=blocks.combines_in_place,
        DEPENDENT=dependent,
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        launch_pdl=dependent,
    )
    if not blocks.combines_in_place:
        combine_split_sequences(out, plan)
