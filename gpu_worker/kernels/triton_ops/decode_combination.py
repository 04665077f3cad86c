"""What the items of a split sequence have found, put together by the last of them or by a launch of its own."""

import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.decode_plan import DecodePlan
from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

# Items that a launch of its own takes at once.
_BLOCK_ITEMS = 64
# Instead of minus infinity where a difference of two of them could arise.
_VERY_LOW = tl.constexpr(-1e30)


def combine_split_sequences(out: Tensor, plan: DecodePlan) -> None:
    """Write the rows of `out` [num_seqs, num_heads, head_dim] whose sequences have several items."""
    num_seqs, num_heads, head_dim = out.shape
    dependent = is_dependent(out)
    _combine_kernel[(num_heads, num_seqs)](
        out,
        plan.partial_out,
        plan.partial_lse,
        plan.sequence_items,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        BLOCK_ITEMS=_BLOCK_ITEMS,
        BLOCK_DIMS=max(triton.next_power_of_2(head_dim), 16),
        DEPENDENT=dependent,
        num_warps=8,
        launch_pdl=dependent,
    )


@triton.jit
def _combine_kernel(
    out,
    partial_out,
    partial_lse,
    sequence_items,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    head = tl.program_id(0)
    sequence = tl.program_id(1)
    first_item = tl.load(sequence_items + sequence * 2)
    item_count = tl.load(sequence_items + sequence * 2 + 1)
    if item_count == 1:
        return
    combine_items(
        out + sequence.to(tl.int64) * (NUM_HEADS * HEAD_DIM),
        partial_out,
        partial_lse,
        first_item,
        item_count,
        head,
        1,
        NUM_HEADS,
        HEAD_DIM,
        BLOCK_ITEMS,
        1,
        BLOCK_DIMS,
    )


@triton.jit
def combine_items(
    out_row,
    partial_out,
    partial_lse,
    first_item,
    item_count,
    first_head,
    NUM_COMBINED_HEADS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """The mean of the items' results, weighted by the sums of their exponentials."""
    dims = tl.arange(0, BLOCK_DIMS)
    rows = tl.arange(0, BLOCK_HEADS)
    in_group = rows < NUM_COMBINED_HEADS
    inside = in_group[:, None] & (dims < HEAD_DIM)[None, :]
    place = (first_head + rows)[:, None] * HEAD_DIM + dims[None, :]
    best = tl.full([BLOCK_HEADS], _VERY_LOW, tl.float32)
    total = tl.zeros([BLOCK_HEADS], tl.float32)
    acc = tl.zeros([BLOCK_HEADS, BLOCK_DIMS], tl.float32)
    for first in range(0, item_count, BLOCK_ITEMS):
        nth = first + tl.arange(0, BLOCK_ITEMS)
        exists = nth < item_count
        indexes = first_item + nth
        # Other processors have written these: what this one's first-level cache holds of them may be old.
        lse = tl.load(
            partial_lse + (indexes * NUM_HEADS)[:, None] + (first_head + rows)[None, :],
            mask=exists[:, None] & in_group[None, :],
            other=float("-inf"),
            cache_modifier=".cg",
        )
        part = tl.load(
            partial_out + (indexes * (NUM_HEADS * HEAD_DIM))[:, None, None] + place[None, :, :],
            mask=exists[:, None, None] & inside[None, :, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_best = tl.maximum(best, tl.max(lse, axis=0))
        weights = tl.exp2(lse - new_best[None, :])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(weights, axis=0)
        acc = acc * shrink[:, None] + tl.sum(part * weights[:, :, None], axis=0)
        best = new_best
    # The last item of a sequence always sees its last token; rows beyond the group have no weight at all.
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out_row + place, acc.to(out_row.dtype.element_ty), mask=inside)
