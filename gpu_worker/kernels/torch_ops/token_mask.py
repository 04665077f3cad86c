"""Forbids what a grammar does not allow."""

import torch
from torch import Tensor


def forbid_tokens_(logits: Tensor, bitmask: Tensor) -> None:
    """Set logits [num_rows, vocab_size] to -inf in place where the bit of an id is 0.

    `bitmask` is [num_rows, ceil(vocab_size / 32)] int32; id i has bit i % 32 of word i // 32.
    """
    bits = (bitmask[:, :, None] >> torch.arange(32, device=logits.device, dtype=torch.int32)) & 1
    logits.masked_fill_(bits.flatten(1)[:, : logits.shape[1]] == 0, -torch.inf)
