"""Matrix products with what stands directly before or after them in a decoder.

Weights are [out_features, in_features], activations [num_tokens, in_features].
"""

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gpu_worker.kernels.torch_ops.activation import silu_mul
from gpu_worker.kernels.torch_ops.norm import rms_norm


def norm_linear(hidden: Tensor, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`rms_norm(hidden) @ weight.T + bias`, [num_tokens, out_features]."""
    return F.linear(rms_norm(hidden, norm_weight, eps), weight, bias)


def norm_gate_up(hidden: Tensor, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`silu(gate) * up` of `norm_linear`, whose first half of columns is the gate; [num_tokens, out_features / 2]."""
    return silu_mul(norm_linear(hidden, norm_weight, eps, weight, bias))


def linear_add_(hidden: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> None:
    """Add `hidden @ weight.T + bias` to `residual` [num_tokens, out_features] in place."""
    residual.add_(F.linear(hidden, weight, bias))
