"""The gated activation of the feed-forward block."""

import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before

_BLOCK = 1024
_NUM_WARPS = 4


def silu_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` of [num_tokens, 2 * size] whose first half is the gate; computed in float32."""
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    assert gate_up.stride(1) == 1
    out = gate_up.new_empty(num_tokens, size)
    if num_tokens:
        grid = (num_tokens, triton.cdiv(size, _BLOCK))
        dependent = is_dependent(gate_up)
        _silu_mul_kernel[grid](
            gate_up,
            out,
            size,
            gate_up.stride(0),
            BLOCK=_BLOCK,
            DEPENDENT=dependent,
            num_warps=_NUM_WARPS,
            launch_pdl=dependent,
        )
    return out


@triton.jit
def silu_times(gate, up):
    """`silu(gate) * up` of float32."""
    # Below the bound, which keeps the exponential finite, the result is nothing.
    return gate / (1.0 + tl.exp(-tl.maximum(gate, -80.0))) * up


@triton.jit
def _silu_mul_kernel(gate_up_ptr, out_ptr, size, gate_up_stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    wait_for_kernel_before(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < size
    row = gate_up_ptr + token * gate_up_stride
    gate = tl.load(row + columns, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(row + size + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * size + columns, silu_times(gate, up), mask=is_column)
