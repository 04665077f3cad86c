"""The begin of a decode step in one launch."""

import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

_BLOCK = 128


def begin_decode_(
    table_rows: Tensor,
    context_lens: Tensor,
    last_ids: Tensor,
    page_tables: Tensor,
    page_size: int,
    token_ids: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
) -> None:
    """See the twin in `torch_ops`."""
    num_seqs = table_rows.shape[0]
    dependent = is_dependent(context_lens)
    _begin_decode[(triton.cdiv(num_seqs, _BLOCK),)](
        table_rows,
        context_lens,
        last_ids,
        page_tables,
        token_ids,
        positions,
        slot_mapping,
        num_seqs,
        page_tables.stride(0),
        PAGE_SIZE=page_size,
        BLOCK=_BLOCK,
        DEPENDENT=dependent,
        launch_pdl=dependent,
    )


@triton.jit
def _begin_decode(
    table_rows,
    context_lens,
    last_ids,
    page_tables,
    token_ids,
    positions,
    slot_mapping,
    num_seqs,
    table_stride,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    sequences = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = sequences < num_seqs
    rows = tl.load(table_rows + sequences, mask=is_inside, other=-1)
    is_real = is_inside & (rows >= 0)
    position = tl.load(context_lens + sequences, mask=is_real, other=0)
    last_id = tl.load(last_ids + rows, mask=is_real, other=0)
    page = tl.load(page_tables + rows.to(tl.int64) * table_stride + position // PAGE_SIZE, mask=is_real, other=0)
    slot = tl.where(is_real, page * PAGE_SIZE + position % PAGE_SIZE, -1)
    tl.store(token_ids + sequences, last_id, mask=is_inside)
    tl.store(positions + sequences, position, mask=is_inside)
    tl.store(slot_mapping + sequences, slot, mask=is_inside)
    tl.store(context_lens + sequences, tl.where(is_real, position + 1, 0), mask=is_inside)
