"""Root mean square normalisation (https://arxiv.org/abs/1910.07467)."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise over the last dimension; computed in float32 at least."""
    return F.rms_norm(hidden, (hidden.shape[-1],), weight, eps)


def add_rms_norm(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`residual + hidden`, normalised, and the sum itself, which is the next residual."""
    residual = torch.add(residual, hidden)
    return F.rms_norm(residual, (residual.shape[-1],), weight, eps), residual
