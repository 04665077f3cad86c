"""Forbids what a grammar does not allow."""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def forbid_tokens_(logits: Tensor, bitmask: Tensor) -> None:
    """See the twin: -inf where the bit of an id is 0."""
    num_rows, vocab_size = logits.shape
    _forbid_kernel[(triton.cdiv(vocab_size, _BLOCK), num_rows)](
        logits, logits.stride(0), bitmask, bitmask.stride(0), vocab_size, _BLOCK // 32, num_warps=4
    )


@triton.jit
def _forbid_kernel(logits, stride, bitmask, mask_stride, vocab_size, NUM_WORDS: tl.constexpr):
    """The logits are written where they are forbidden and never read."""
    block, place = tl.program_id(0), tl.program_id(1)
    word_indexes = block * NUM_WORDS + tl.arange(0, NUM_WORDS)
    words = tl.load(bitmask + place.to(tl.int64) * mask_stride + word_indexes, mask=word_indexes * 32 < vocab_size)
    bits = tl.arange(0, 32)[None, :]
    token_ids = word_indexes[:, None] * 32 + bits
    is_forbidden = ((words[:, None] >> bits) & 1) == 0
    nothing = tl.full([NUM_WORDS, 32], float("-inf"), logits.dtype.element_ty)
    tl.store(logits + place.to(tl.int64) * stride + token_ids, nothing, mask=is_forbidden & (token_ids < vocab_size))
