"""Root mean square normalisation (https://arxiv.org/abs/1910.07467); one program per row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

_MANY_ROWS = 1024  # more programs than fit on a GPU at once: then few threads with much to do each are best


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise over the last dimension; computed in float32."""
    rows = _as_rows(hidden)
    out = torch.empty_like(rows)
    num_rows, size = rows.shape
    if num_rows:
        block, num_warps = _block(num_rows, size)
        dependent = is_dependent(rows)
        _rms_norm_kernel[(num_rows,)](
            rows,
            weight,
            out,
            size,
            rows.stride(0),
            eps,
            BLOCK=block,
            DEPENDENT=dependent,
            num_warps=num_warps,
            launch_pdl=dependent,
        )
    return out.view(hidden.shape)


def _as_rows(hidden: Tensor) -> Tensor:
    """[num_rows, size], with the elements of a row side by side."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _block(num_rows: int, size: int) -> tuple[int, int]:
    """Columns of a program, which hold a whole row, and its warps."""
    block = triton.next_power_of_2(size)
    columns_per_warp = 512 if num_rows > _MANY_ROWS else 256
    return block, min(max(block // columns_per_warp, 1), 16)


@triton.jit
def _rms_norm_kernel(
    hidden_ptr, weight_ptr, out_ptr, size, hidden_stride, eps, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_column = columns < size
    weight = tl.load(weight_ptr + columns, mask=is_column, other=0.0).to(tl.float32)
    wait_for_kernel_before(DEPENDENT)
    hidden = tl.load(hidden_ptr + row * hidden_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(hidden * hidden, axis=0) / size + eps)
    tl.store(out_ptr + row * size + columns, hidden * scale * weight, mask=is_column)
