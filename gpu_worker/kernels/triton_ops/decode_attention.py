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
from gpu_worker.kernels.triton_ops.new_token import load_angles, load_rotated, store_new_token

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
    blocks = blocks or decode_blocks(head_dim, query.dtype)
    group = num_heads // num_kv_heads
    dependent = is_dependent(query)
    _decode_kernel[(num_kv_heads, num_seqs + plan.target_items)](
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
        BLOCK_ROWS=max(triton.next_power_of_2(group), 16),
        BLOCK_TOKENS=blocks.tokens,
        BLOCK_DIMS=max(triton.next_power_of_2(head_dim), 16),
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


@triton.jit(
    do_not_specialize=["table_stride", "window"],
    do_not_specialize_on_alignment=["page_tables", "table_rows", "slot_mapping"],
)
def _decode_kernel(
    out,
    partial_out,
    partial_lse,
    arrivals,
    items,
    num_items,
    query,
    cos,
    signed_sin,
    query_norm,
    key_norm,
    eps,
    slot_mapping,
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
    # An item is read before it is known to exist, so that both reads are under way at once; the buffer has room.
    item = items + index * ITEM_FIELDS
    sequence = tl.load(item)
    start = tl.load(item + 1)
    stop = tl.load(item + 2)
    first_item = tl.load(item + 3)
    item_count = tl.load(item + 4)
    length = tl.load(item + 5)
    if index >= tl.load(num_items):
        return
    if HAS_WINDOW:
        start = tl.maximum(start, length - window)

    table_row = sequence
    if table_rows is not None:
        table_row = tl.load(table_rows + sequence).to(tl.int32)
    table = page_tables + table_row.to(tl.int64) * table_stride

    rows = tl.arange(0, BLOCK_ROWS)
    dims = tl.arange(0, BLOCK_DIMS)
    heads = kv_head * GROUP + rows
    in_group = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    place = heads[:, None] * HEAD_DIM + dims[None, :]
    out += sequence.to(tl.int64) * (NUM_HEADS * HEAD_DIM)

    best = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, BLOCK_DIMS], tl.float32)
    if cos is None:
        q = tl.load(query + sequence.to(tl.int64) * (NUM_HEADS * HEAD_DIM) + place, mask=in_group, other=0.0)
    else:
        # The query comes unrotated, beside the key and value of its token. What the last item finds begins with these,
        # and the loop goes over what the cache held before.
        is_new = (stop == length) & (length > 0)
        query += sequence.to(tl.int64) * ((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM)
        cosine, sine = load_angles(cos, signed_sin, tl.maximum(length - 1, 0), HEAD_DIM, BLOCK_DIMS)
        rotated = load_rotated(
            query + heads * HEAD_DIM, rows < GROUP, cosine, sine, query_norm, eps, HEAD_DIM, BLOCK_DIMS
        )
        q = rotated.to(query.dtype.element_ty)
        row = (tl.load(slot_mapping + sequence).to(tl.int64) * NUM_KV_HEADS + kv_head) * HEAD_DIM
        new_key, new_value = store_new_token(
            query + (NUM_HEADS + kv_head) * HEAD_DIM,
            query + (NUM_HEADS + NUM_KV_HEADS + kv_head) * HEAD_DIM,
            k_cache + row,
            v_cache + row,
            is_new,
            cosine,
            sine,
            key_norm,
            eps,
            HEAD_DIM,
            BLOCK_DIMS,
        )
        new_score = tl.sum(q.to(tl.float32) * new_key.to(tl.float32), axis=1) * scale_log2
        best = tl.where(is_new, new_score, best)
        total += is_new.to(tl.float32)
        acc += new_value.to(tl.float32)
        stop -= is_new.to(tl.int32)

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
        tl.store(out + place, acc.to(out.dtype.element_ty), mask=in_group)
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
                    out,
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
