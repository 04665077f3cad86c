"""Attention of one query token per sequence over its paged context, split along the context (flash decoding).

A program has one work item of the plan and one key head: all query heads of the group are the rows of its products, so
that keys and values are read once. Sequences of one item write their result at once; of the others the program that
arrives last combines what all have found.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.decode_combination import combine_items, combine_split_sequences
from gpu_worker.kernels.triton_ops.decode_plan import ITEM_FIELDS, DecodePlan
from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

# Whether the last program of a sequence combines its items, or a launch of its own.
_COMBINES_IN_PLACE = True
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class DecodeBlocks:
    """How a program works: tokens per turn of its loop, turns whose loads overlap, warps, items combined at a time."""

    tokens: int
    num_stages: int
    num_warps: int
    combined_items: int = 8
    combines_in_place: bool = _COMBINES_IN_PLACE


def decode_blocks(head_dim: int, dtype: torch.dtype) -> DecodeBlocks:
    """The choice for a shape, to be tuned by measurement (`bench/kernel_cases/attention.py`)."""
    if dtype.itemsize > 2:
        return DecodeBlocks(tokens=32, num_stages=2, num_warps=4)
    tokens = 128 if head_dim <= 64 else 64
    return DecodeBlocks(tokens=tokens, num_stages=3, num_warps=4)


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
    num_seqs, num_heads, head_dim = query.shape
    page_size, num_kv_heads = k_cache.shape[1], k_cache.shape[2]
    assert all(tensor.is_contiguous() for tensor in (query, k_cache, v_cache))
    blocks = blocks or decode_blocks(head_dim, query.dtype)
    group = num_heads // num_kv_heads
    block_dims = max(triton.next_power_of_2(head_dim), 16)
    out = torch.empty_like(query)
    dependent = is_dependent(query)
    _decode_kernel[(num_kv_heads, num_seqs + plan.target_items)](
        out,
        plan.partial_out,
        plan.partial_lse,
        plan.arrivals,
        plan.items,
        plan.num_items,
        query,
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
        BLOCK_ROWS=max(triton.next_power_of_2(group), 16),
        BLOCK_TOKENS=blocks.tokens,
        BLOCK_DIMS=block_dims,
        BLOCK_ITEMS=blocks.combined_items,
        BLOCK_HEADS=triton.next_power_of_2(group),
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
    return out


@triton.jit(
    do_not_specialize=["table_stride", "window"],
    do_not_specialize_on_alignment=["page_tables", "table_rows"],
)
def _decode_kernel(
    out,
    partial_out,
    partial_lse,
    arrivals,
    items,
    num_items,
    query,
    k_cache,
    v_cache,
    page_tables,
    table_rows,
    table_stride,
    scale_log2,
    window,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    IS_WIDE: tl.constexpr,
    COMBINES_IN_PLACE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    NUM_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP
    kv_head = tl.program_id(0)
    index = tl.program_id(1)
    if index >= tl.load(num_items):
        return
    item = items + index * ITEM_FIELDS
    sequence = tl.load(item)
    start = tl.load(item + 1)
    stop = tl.load(item + 2)
    first_item = tl.load(item + 3)
    item_count = tl.load(item + 4)
    if HAS_WINDOW:
        start = tl.maximum(start, tl.load(item + 5) - window)

    table_row = sequence
    if table_rows is not None:
        table_row = tl.load(table_rows + sequence).to(tl.int32)
    table = page_tables + table_row.to(tl.int64) * table_stride

    rows = tl.arange(0, BLOCK_ROWS)
    dims = tl.arange(0, BLOCK_DIMS)
    heads = kv_head * GROUP + rows
    in_group = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    place = heads[:, None] * HEAD_DIM + dims[None, :]
    row_of_query = sequence.to(tl.int64) * (NUM_HEADS * HEAD_DIM)
    q = tl.load(query + row_of_query + place, mask=in_group, other=0.0)

    best = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, BLOCK_DIMS], tl.float32)
    # The pages of a turn are read a turn earlier: the copies of keys and values, which are started several turns ahead,
    # then depend on no load of their own turn.
    tokens = start + tl.arange(0, BLOCK_TOKENS)
    pages = tl.load(table + tokens // PAGE_SIZE, mask=tokens < stop, other=0)
    for first in range(start, stop, BLOCK_TOKENS):
        tokens = first + tl.arange(0, BLOCK_TOKENS)
        visible = tokens < stop
        if IS_WIDE:
            slots = pages.to(tl.int64) * PAGE_SIZE + tokens % PAGE_SIZE
        else:
            slots = pages * PAGE_SIZE + tokens % PAGE_SIZE
        offsets = (slots * NUM_KV_HEADS + kv_head) * HEAD_DIM
        next_tokens = tokens + BLOCK_TOKENS
        pages = tl.load(table + next_tokens // PAGE_SIZE, mask=next_tokens < stop, other=0)
        loaded = visible[:, None] & (dims < HEAD_DIM)[None, :]
        k = tl.load(k_cache + offsets[:, None] + dims[None, :], mask=loaded, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        scores = tl.where(visible[None, :], scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(weights, axis=1)
        v = tl.load(v_cache + offsets[:, None] + dims[None, :], mask=loaded, other=0.0)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")
        best = new_best

    # Nothing is seen by a row without context, and in items before the sliding window.
    found = total > 0
    total = tl.where(found, total, 1.0)
    acc = acc / total[:, None]
    if item_count == 1:
        tl.store(out + row_of_query + place, acc.to(out.dtype.element_ty), mask=in_group)
    else:
        lse = tl.where(found, best + tl.log2(total), float("-inf"))
        tl.store(partial_out + index * (NUM_HEADS * HEAD_DIM) + place, acc, mask=in_group)
        tl.store(partial_lse + index * NUM_HEADS + heads, lse, mask=rows < GROUP)
        if COMBINES_IN_PLACE:
            # All threads have stored before one says so; who reads the last arrival reads what was stored before any.
            tl.debug_barrier()
            arrival = arrivals + sequence * NUM_KV_HEADS + kv_head
            arrived = tl.atomic_add(arrival, 1, sem="acq_rel", scope="gpu")
            if arrived == item_count - 1:
                tl.debug_barrier()
                tl.store(arrival, 0)
                combine_items(
                    out + row_of_query,
                    partial_out,
                    partial_lse,
                    first_item,
                    item_count,
                    kv_head * GROUP,
                    GROUP,
                    NUM_HEADS,
                    HEAD_DIM,
                    BLOCK_ITEMS,
                    BLOCK_HEADS,
                    BLOCK_DIMS,
                )
