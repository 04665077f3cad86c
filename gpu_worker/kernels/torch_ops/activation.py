"""The gated activation of the feed-forward block."""

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` of [num_tokens, 2 * size] whose first half is the gate."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
