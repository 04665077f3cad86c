"""Matrix products with what stands directly before or after them in a decoder.

Weights are [out_features, in_features], activations [num_tokens, in_features]; the last dimension is contiguous, and so
are weights and residuals as a whole. One token goes through `matvec`, more go through cuBLAS.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gpu_worker.kernels.triton_ops.activation import silu_mul
from gpu_worker.kernels.triton_ops.matvec import MAX_TOKENS, matvec
from gpu_worker.kernels.triton_ops.norm import rms_norm

_HALF_TYPES = (torch.bfloat16, torch.float16)


def norm_linear(hidden: Tensor, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`rms_norm(hidden) @ weight.T + bias`, [num_tokens, out_features]."""
    if not _is_small(hidden):
        return F.linear(rms_norm(hidden, norm_weight, eps), weight, bias)
    out = hidden.new_empty(len(hidden), len(weight))
    matvec(hidden, norm_weight, eps, weight, bias, out)
    return out


def norm_gate_up(hidden: Tensor, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`silu(gate) * up` of `norm_linear`, whose first half of columns is the gate; [num_tokens, out_features / 2]."""
    if not _is_small(hidden):
        return silu_mul(F.linear(rms_norm(hidden, norm_weight, eps), weight, bias))
    out = hidden.new_empty(len(hidden), len(weight) // 2)
    matvec(hidden, norm_weight, eps, weight, bias, out, is_gated=True)
    return out


def linear_add_(hidden: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> None:
    """Add `hidden @ weight.T + bias` to `residual` [num_tokens, out_features] in place."""
    assert residual.is_contiguous()
    if _is_small(hidden):
        matvec(hidden, None, 0.0, weight, bias, residual, adds=True)
        return
    residual.addmm_(hidden, weight.t())  # the sum is the end of the product's kernel
    if bias is not None:
        residual.add_(bias)


def _is_small(hidden: Tensor) -> bool:
    """Whether `matvec` is faster than cuBLAS; in float32 the latter is left to it, for its exactness."""
    return 0 < len(hidden) <= MAX_TOKENS and hidden.dtype in _HALF_TYPES
