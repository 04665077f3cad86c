"""Log probabilities of chosen ids and of the most likely ones."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Per program and fixed, so that the sum of a row does not depend on the number of rows.
_BLOCK = 4096


def top_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """See the twin in `torch_ops.sampling`; all in float32."""
    normaliser = log_sum_exp(logits)[:, None]
    chosen = logits.gather(1, token_ids[:, None]).float() - normaliser
    top = logits.topk(num_top, dim=-1)
    return chosen.squeeze(1), top.indices, top.values.float() - normaliser


def log_sum_exp(logits: Tensor) -> Tensor:
    """Logarithm of the sum of exp(logits) of each row of [num_rows, vocab_size], float32 [num_rows]."""
    num_rows, vocab_size = logits.shape
    num_blocks = triton.cdiv(vocab_size, _BLOCK)
    parts = torch.empty((2, num_rows, num_blocks), dtype=torch.float32, device=logits.device)
    out = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    _block_sums_kernel[(num_blocks, num_rows)](
        logits, logits.stride(0), parts[0], parts[1], vocab_size, _BLOCK, num_warps=4
    )
    _total_kernel[(num_rows,)](parts[0], parts[1], out, num_blocks, triton.next_power_of_2(num_blocks), num_warps=1)
    return out


@triton.jit
def _block_sums_kernel(logits, stride, bests, sums, vocab_size, BLOCK: tl.constexpr):
    block, place = tl.program_id(0), tl.program_id(1)
    token_ids = block * BLOCK + tl.arange(0, BLOCK)
    logits += place.to(tl.int64) * stride
    x = tl.load(logits + token_ids, mask=token_ids < vocab_size, other=float("-inf")).to(tl.float32)
    best = tl.max(x, 0)
    # A block without a finite value has the sum 0 and not an undefined one.
    shifted = x - tl.where(best == float("-inf"), 0.0, best)
    tl.store(bests + place * tl.num_programs(0) + block, best)
    tl.store(sums + place * tl.num_programs(0) + block, tl.sum(tl.exp(shifted), 0))


@triton.jit
def _total_kernel(bests, sums, out, num_blocks, BLOCKS: tl.constexpr):
    place = tl.program_id(0)
    blocks = tl.arange(0, BLOCKS)
    mask = blocks < num_blocks
    x = tl.load(bests + place * num_blocks + blocks, mask=mask, other=float("-inf"))
    total = tl.load(sums + place * num_blocks + blocks, mask=mask, other=0.0)
    best = tl.max(x, 0)
    tl.store(out + place, best + tl.log(tl.sum(total * tl.exp(x - best), 0)))
