"""The kernel of `decode_attention`.

A program has one work item of the plan and one key head: all query heads of the group are the rows of its products, so
that keys and values are read once. Sequences of one item write their result at once; of the others the program that
arrives last combines what all have found.
"""

import triton
import triton.language as tl

from gpu_worker.kernels.triton_ops.decode_combination import combine_items
from gpu_worker.kernels.triton_ops.decode_plan import ITEM_FIELDS
from gpu_worker.kernels.triton_ops.launch import wait_for_kernel_before
from gpu_worker.kernels.triton_ops.new_token import load_angles, load_rotated, store_new_token


@triton.jit(
    do_not_specialize=["table_stride", "window"],
    do_not_specialize_on_alignment=["page_tables", "table_rows", "slot_mapping"],
)
def decode_kernel(
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
