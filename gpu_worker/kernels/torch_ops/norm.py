"""Root mean square normalisation (https://arxiv.org/abs/1910.07467)."""

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise over the last dimension; computed in float32 at least."""
    return F.rms_norm(hidden, (hidden.shape[-1],), weight, eps)
