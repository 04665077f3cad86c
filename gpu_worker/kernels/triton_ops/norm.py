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


def add_rms_norm(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`residual + hidden`, normalised, and the sum itself, which is the next residual."""
    rows, residual_rows = _as_rows(hidden), _as_rows(residual)
    out, total = torch.empty_like(rows), torch.empty_like(rows)
    num_rows, size = rows.shape
    if num_rows:
        block, num_warps = _block(num_rows, size)
        dependent = is_dependent(rows)
        _add_rms_norm_kernel[(num_rows,)](
            rows,
            residual_rows,
            weight,
            out,
            total,
            size,
            rows.stride(0),
            residual_rows.stride(0),
            eps,
            BLOCK=block,
            DEPENDENT=dependent,
            num_warps=num_warps,
            launch_pdl=dependent,
        )
    return out.view(hidden.shape), total.view(hidden.shape)


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


@triton.jit
def _add_rms_norm_kernel(
    hidden_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    total_ptr,
    size,
    hidden_stride,
    residual_stride,
    eps,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_column = columns < size
    weight = tl.load(weight_ptr + columns, mask=is_column, other=0.0).to(tl.float32)
    wait_for_kernel_before(DEPENDENT)
    hidden = tl.load(hidden_ptr + row * hidden_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row * residual_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    # What is normalised is the residual as the next layer reads it.
    total = (hidden + residual).to(total_ptr.dtype.element_ty)
    tl.store(total_ptr + row * size + columns, total, mask=is_column)
    total = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total, axis=0) / size + eps)
    tl.store(out_ptr + row * size + columns, total * scale * weight, mask=is_column)
