"""How the decodes of a step are cut into work items of about equal size, once for all layers.

All but the sizes of the buffers is decided on the device, so that a CUDA graph can be replayed for other lengths.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

# A work item: sequence, first token, stop, first item of the sequence, number of items of the sequence, context length.
ITEM_FIELDS = tl.constexpr(8)

# An item of fewer tokens costs more in the combination of its result than it gains.
_MIN_ITEM_TOKENS = 128
# Programs that a processor should have at least, counted over all heads, when the contexts allow it.
_PROGRAMS_PER_PROCESSOR = 2
# Items start at multiples of this many tokens.
_ITEM_QUANTUM = tl.constexpr(64)
_PROCESSORS_IF_UNKNOWN = 132


@dataclass(frozen=True, slots=True, eq=False)
class DecodePlan:
    """Device buffers of the decodes of one stream: the work list of a step, and room for its partial results.

    `items` is [max_items, ITEM_FIELDS] int32, of which the first `num_items` [1] count; `sequence_items` [max_seqs, 2]
    has the first item and the number of items of each sequence. `partial_out` [max_items, num_heads, head_dim] and
    `partial_lse` [max_items, num_heads] (base 2) hold what a split sequence's items found. `arrivals`
    [max_seqs, num_kv_heads] are all 0 between two launches.
    """

    items: Tensor
    num_items: Tensor
    sequence_items: Tensor
    partial_out: Tensor
    partial_lse: Tensor
    arrivals: Tensor
    target_items: int
    min_item_tokens: int


def make_decode_plan(
    max_seqs: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    device: torch.device,
    *,
    programs_per_processor: int = _PROGRAMS_PER_PROCESSOR,
    min_item_tokens: int = _MIN_ITEM_TOKENS,
) -> DecodePlan:
    """Buffers for up to `max_seqs` decodes, to be filled by `plan_decode_` before they are used.

    `min_item_tokens` is a multiple of 64.
    """
    assert min_item_tokens % _ITEM_QUANTUM.value == 0
    is_cuda = device.type == "cuda"
    processors = torch.cuda.get_device_properties(device).multi_processor_count if is_cuda else _PROCESSORS_IF_UNKNOWN
    target_items = -(-processors * programs_per_processor // num_kv_heads)
    max_items = max_seqs + target_items

    def ints(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    return DecodePlan(
        items=ints(max_items, ITEM_FIELDS.value),
        num_items=ints(1),
        sequence_items=ints(max_seqs, 2),
        partial_out=torch.empty((max_items, num_heads, head_dim), dtype=torch.float32, device=device),
        partial_lse=torch.empty((max_items, num_heads), dtype=torch.float32, device=device),
        arrivals=ints(max_seqs, num_kv_heads),
        target_items=target_items,
        min_item_tokens=min_item_tokens,
    )


def plan_decode_(plan: DecodePlan, context_lens: Tensor) -> None:
    """Fill `plan` for sequences of `context_lens` [num_seqs] tokens, in one launch of one program.

    A context of 0 tokens marks a row that only fills up a batch; its attention is zero. There are at most
    num_seqs + `plan.target_items` items, whatever the lengths.
    """
    num_seqs = context_lens.shape[0]
    block_seqs = max(triton.next_power_of_2(num_seqs), 16)
    dependent = is_dependent(context_lens)
    _plan_kernel[(1,)](
        plan.items,
        plan.num_items,
        plan.sequence_items,
        context_lens,
        num_seqs,
        plan.target_items,
        plan.min_item_tokens,
        BLOCK_SEQS=block_seqs,
        DEPENDENT=dependent,
        num_warps=min(max(block_seqs // 64, 1), 8),
        launch_pdl=dependent,
    )


@triton.jit(
    do_not_specialize=["num_seqs", "target_items", "min_item_tokens"],
    do_not_specialize_on_alignment=["context_lens"],
)
def _plan_kernel(
    items,
    num_items,
    sequence_items,
    context_lens,
    num_seqs,
    target_items,
    min_item_tokens,
    BLOCK_SEQS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    sequences = tl.arange(0, BLOCK_SEQS)
    exists = sequences < num_seqs
    lens = tl.load(context_lens + sequences, mask=exists, other=0).to(tl.int32)

    # With whole items of `most` tokens there are at most num_seqs + target_items of them.
    most = tl.maximum(tl.cdiv(tl.sum(lens, axis=0), target_items), min_item_tokens)
    most = tl.cdiv(most, _ITEM_QUANTUM) * _ITEM_QUANTUM
    counts = tl.where(exists, tl.maximum(tl.cdiv(lens, most), 1), 0)
    # Equal items instead of whole ones and a rest. None is empty: they are not longer than `most`.
    tokens = tl.cdiv(tl.cdiv(lens, tl.maximum(counts, 1)), _ITEM_QUANTUM) * _ITEM_QUANTUM

    firsts = tl.cumsum(counts, axis=0) - counts
    tl.store(num_items, tl.sum(counts, axis=0))
    tl.store(sequence_items + sequences * 2, firsts, mask=exists)
    tl.store(sequence_items + sequences * 2 + 1, counts, mask=exists)
    for index in range(0, tl.max(counts, axis=0)):
        written = index < counts
        item = items + (firsts + index) * ITEM_FIELDS
        tl.store(item, sequences, mask=written)
        tl.store(item + 1, index * tokens, mask=written)
        tl.store(item + 2, tl.minimum((index + 1) * tokens, lens), mask=written)
        tl.store(item + 3, firsts, mask=written)
        tl.store(item + 4, counts, mask=written)
        tl.store(item + 5, lens, mask=written)
