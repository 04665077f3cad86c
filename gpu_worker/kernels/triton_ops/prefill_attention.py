"""Causal attention of chunks of prompts over their paged context (flash attention, https://arxiv.org/abs/2307.08691).

A program has a block of rows of one sequence and one key head. Rows are pairs of a token and a query head of the group,
tokens first, so that a block spans few tokens: little of what it reads is masked, and a short chunk fills it.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# Chunks up to this many tokens end before the loop over what they see is under way.
_SHORT_CHUNK = 256
_LOG2_E = 1.4426950408889634
# Instead of minus infinity: a row may see nothing of a block, and differences must stay numbers.
_VERY_LOW = tl.constexpr(-1e30)
# Sequences whose starts are compared at once.
_BLOCK_SEQS = tl.constexpr(128)


@dataclass(frozen=True, slots=True)
class PrefillBlocks:
    """How a program works: its rows, tokens per turn of its loop, turns whose loads overlap, warps."""

    rows: int
    tokens: int
    num_stages: int
    num_warps: int


def prefill_blocks(head_dim: int, dtype: torch.dtype, max_query_len: int) -> PrefillBlocks:
    """What was fastest over the two shapes of `bench/kernel_cases/attention.py` on an H200."""
    if dtype.itemsize > 2:
        return PrefillBlocks(rows=32, tokens=32, num_stages=2, num_warps=8)
    if max_query_len <= _SHORT_CHUNK:
        # A program is mostly waiting for its first pages, so it is small: several of them fit a processor.
        return PrefillBlocks(rows=64, tokens=64, num_stages=2, num_warps=4)
    if head_dim <= 64:
        return PrefillBlocks(rows=64, tokens=128, num_stages=2, num_warps=4)
    return PrefillBlocks(rows=128, tokens=64, num_stages=3, num_warps=8)


def paged_prefill_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    query_starts: Tensor,
    context_lens: Tensor,
    max_query_len: int,
    scale: float,
    sliding_window: int | None = None,
    blocks: PrefillBlocks | None = None,
) -> Tensor:
    """Chunks of several sequences, one after the other: [num_tokens, num_heads, head_dim] in and out.

    As in `torch_ops`, with contiguous caches and queries. The rows of `query` beyond the last start have no result.
    `max_query_len` decides only how the work is cut: the grid follows from the tokens.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_seqs = context_lens.shape[0]
    page_size, num_kv_heads = k_cache.shape[1], k_cache.shape[2]
    assert all(tensor.is_contiguous() for tensor in (query, k_cache, v_cache))
    blocks = blocks or prefill_blocks(head_dim, query.dtype, max_query_len)
    group = num_heads // num_kv_heads
    out = torch.empty_like(query)
    _prefill_kernel[(num_kv_heads, num_tokens * group // blocks.rows + num_seqs)](
        out,
        query,
        k_cache,
        v_cache,
        page_tables,
        table_rows,
        query_starts,
        context_lens,
        num_seqs,
        page_tables.stride(0),
        scale * _LOG2_E,
        sliding_window or 0,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        PAGE_SIZE=page_size,
        BLOCK_ROWS=blocks.rows,
        BLOCK_TOKENS=blocks.tokens,
        BLOCK_DIMS=max(triton.next_power_of_2(head_dim), 16),
        HAS_WINDOW=sliding_window is not None,
        # Offsets into the caches take 64 bits only if they must.
        IS_WIDE=k_cache.numel() >= 2**31,
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
    )
    return out


@triton.jit(
    do_not_specialize=["num_seqs", "table_stride", "window"],
    do_not_specialize_on_alignment=["page_tables", "table_rows", "query_starts", "context_lens"],
)
def _prefill_kernel(
    out,
    query,
    k_cache,
    v_cache,
    page_tables,
    table_rows,
    query_starts,
    context_lens,
    num_seqs,
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
    HAS_WINDOW: tl.constexpr,
    IS_WIDE: tl.constexpr,
):
    NUM_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP
    kv_head = tl.program_id(0)
    # The last blocks of a sequence see most, so they begin first.
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    sequence = _sequence_of(block, query_starts, num_seqs, GROUP, BLOCK_ROWS)
    query_start = tl.load(query_starts + sequence).to(tl.int32)
    query_len = tl.load(query_starts + sequence + 1).to(tl.int32) - query_start
    first_row = (block - _first_block(query_start, sequence, GROUP, BLOCK_ROWS)) * BLOCK_ROWS
    # All that is known by the sequence is asked for at once, before it is clear that there is something to do.
    num_cached = tl.load(context_lens + sequence).to(tl.int32) - query_len
    table_row = sequence
    if table_rows is not None:
        table_row = tl.load(table_rows + sequence).to(tl.int32)
    if first_row >= query_len * GROUP:
        return
    table = page_tables + table_row.to(tl.int64) * table_stride

    rows = first_row + tl.arange(0, BLOCK_ROWS)
    dims = tl.arange(0, BLOCK_DIMS)
    in_chunk = (rows < query_len * GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    heads = kv_head * GROUP + rows % GROUP
    place = ((query_start + rows // GROUP).to(tl.int64) * NUM_HEADS + heads) * HEAD_DIM
    q = tl.load(query + place[:, None] + dims[None, :], mask=in_chunk, other=0.0)

    # Rows beyond the chunk see what its last token sees, and are not written.
    positions = num_cached + tl.minimum(rows // GROUP, query_len - 1)
    first_position = num_cached + first_row // GROUP
    last_position = num_cached + tl.minimum((first_row + BLOCK_ROWS - 1) // GROUP, query_len - 1)
    if HAS_WINDOW:
        end_of_visible = tl.maximum(first_position - window + 1, 0)
    else:
        # Up to here all rows see all tokens.
        end_of_visible = (first_position + 1) // BLOCK_TOKENS * BLOCK_TOKENS

    best = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, BLOCK_DIMS], tl.float32)
    k_head = k_cache + kv_head * HEAD_DIM
    v_head = v_cache + kv_head * HEAD_DIM
    if not HAS_WINDOW:
        best, total, acc = _attend(
            best, total, acc, q, k_head, v_head, table, 0, end_of_visible, positions, scale_log2, window,
            NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE, BLOCK_TOKENS, BLOCK_DIMS, False, HAS_WINDOW, IS_WIDE,
        )  # fmt: skip
    best, total, acc = _attend(
        best, total, acc, q, k_head, v_head, table, end_of_visible, last_position + 1, positions, scale_log2, window,
        NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE, BLOCK_TOKENS, BLOCK_DIMS, True, HAS_WINDOW, IS_WIDE,
    )  # fmt: skip

    acc = acc / total[:, None]
    tl.store(out + place[:, None] + dims[None, :], acc.to(out.dtype.element_ty), mask=in_chunk)


@triton.jit
def _first_block(query_start, sequence, GROUP: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """A bound instead of the sum of the blocks before, which leaves at most one block of each sequence without rows."""
    return query_start * GROUP // BLOCK_ROWS + sequence


@triton.jit
def _sequence_of(block, query_starts, num_seqs, GROUP: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """The last sequence whose first block is not after `block`."""
    num_begun = block * 0
    for first in range(0, num_seqs, _BLOCK_SEQS):
        sequences = first + tl.arange(0, _BLOCK_SEQS)
        exists = sequences < num_seqs
        starts = tl.load(query_starts + sequences, mask=exists, other=0).to(tl.int32)
        begun = exists & (_first_block(starts, sequences, GROUP, BLOCK_ROWS) <= block)
        num_begun += tl.sum(begun.to(tl.int32), axis=0)
    return num_begun - 1


@triton.jit
def _attend(
    best,
    total,
    acc,
    q,
    k_head,
    v_head,
    table,
    start,
    stop,
    positions,
    scale_log2,
    window,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    IS_MASKED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    IS_WIDE: tl.constexpr,
):
    """The tokens `start .. stop - 1` added to a running softmax and its weighted sum."""
    dims = tl.arange(0, BLOCK_DIMS)
    # The pages of a turn are read a turn earlier: the copies of keys and values, which are started several turns ahead,
    # then depend on no load of their own turn.
    tokens = start + tl.arange(0, BLOCK_TOKENS)
    pages = tl.load(table + tokens // PAGE_SIZE, mask=tokens < stop, other=0)
    for first in range(start, stop, BLOCK_TOKENS):
        tokens = first + tl.arange(0, BLOCK_TOKENS)
        if IS_WIDE:
            slots = pages.to(tl.int64) * PAGE_SIZE + tokens % PAGE_SIZE
        else:
            slots = pages * PAGE_SIZE + tokens % PAGE_SIZE
        offsets = slots * (NUM_KV_HEADS * HEAD_DIM)
        next_tokens = tokens + BLOCK_TOKENS
        pages = tl.load(table + next_tokens // PAGE_SIZE, mask=next_tokens < stop, other=0)
        place = offsets[:, None] + dims[None, :]
        if IS_MASKED:
            loaded = (tokens < stop)[:, None] & (dims < HEAD_DIM)[None, :]
            k = tl.load(k_head + place, mask=loaded, other=0.0)
            v = tl.load(v_head + place, mask=loaded, other=0.0)
        elif HEAD_DIM < BLOCK_DIMS:
            k = tl.load(k_head + place, mask=(dims < HEAD_DIM)[None, :], other=0.0)
            v = tl.load(v_head + place, mask=(dims < HEAD_DIM)[None, :], other=0.0)
        else:
            k = tl.load(k_head + place)
            v = tl.load(v_head + place)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if IS_MASKED:
            visible = tokens[None, :] <= positions[:, None]
            if HAS_WINDOW:
                visible = visible & (tokens[None, :] > positions[:, None] - window)
            scores = tl.where(visible, scores * scale_log2, _VERY_LOW)
            new_best = tl.maximum(best, tl.max(scores, axis=1))
            weights = tl.exp2(scores - new_best[:, None])
        else:
            # The product and the difference are one instruction.
            new_best = tl.maximum(best, tl.max(scores, axis=1) * scale_log2)
            weights = tl.exp2(scores * scale_log2 - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(weights, axis=1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")
        best = new_best
    return best, total, acc
