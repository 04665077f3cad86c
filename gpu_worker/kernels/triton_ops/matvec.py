"""One token, or very few, through a projection: each weight is read once and multiplied in float32.

At this size a projection is a read of its weights, and one of a small model is over in the time that a launch takes. So
what stands beside the product is done in passing: the normalisation before it, the activation or sum behind it.
"""

from dataclasses import dataclass
from functools import cache
from math import log

import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.triton_ops.activation import silu_times


@dataclass(frozen=True, slots=True)
class MatvecBlocks:
    """How the product is cut: a program takes `num_rows` of the weight, `num_inputs` columns at a time."""

    num_rows: int
    num_inputs: int
    num_warps: int


# What was fastest for a weight [rows, inputs] in bfloat16 on an H200, of all cuts of `bench.kernels --sweep`.
_MEASURED = {
    (896, 896): MatvecBlocks(2, 1024, 4),
    (1152, 896): MatvecBlocks(2, 1024, 4),
    (9728, 896): MatvecBlocks(4, 1024, 2),
    (151936, 896): MatvecBlocks(2, 1024, 1),
    (896, 4864): MatvecBlocks(1, 8192, 8),
    (3584, 3584): MatvecBlocks(2, 2048, 8),
    (4608, 3584): MatvecBlocks(8, 512, 2),
    (37888, 3584): MatvecBlocks(4, 4096, 8),
    (152064, 3584): MatvecBlocks(8, 512, 2),
    (3584, 18944): MatvecBlocks(2, 1024, 1),
}


MAX_TOKENS = 1
"""Up to so many, this is taken to be faster than cuBLAS. More work, but have not been measured."""

# Products that a thread holds at most: more do not fit its registers beside the weights.
_MAX_PRODUCTS = 64


@cache
def matvec_blocks(num_rows: int, num_inputs: int, num_tokens: int = 1) -> MatvecBlocks:
    """Blocks for a weight [num_rows, num_inputs]: those of the most similar one that was measured.

    More tokens get blocks that are smaller, or have more threads.
    """

    def dissimilarity(shape: tuple[int, int]) -> float:
        return abs(log(shape[0] / num_rows)) + abs(log(shape[1] / num_inputs))

    nearest = _MEASURED[min(_MEASURED, key=dissimilarity)]
    rows, warps = nearest.num_rows, nearest.num_warps
    inputs = min(triton.next_power_of_2(num_inputs), nearest.num_inputs)
    while num_tokens > 1 and num_tokens * rows * inputs > 32 * warps * _MAX_PRODUCTS:
        if rows > 2:
            rows //= 2
        elif warps < 8:
            warps *= 2
        else:
            inputs //= 2
    return MatvecBlocks(rows, inputs, warps)


def matvec(
    hidden: Tensor,
    norm_weight: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    is_gated: bool = False,
    adds: bool = False,
    blocks: MatvecBlocks | None = None,
) -> None:
    """Write the projection of `hidden` [num_tokens, num_inputs] to `out` [num_tokens, num_outputs], or add it to `out`.

    `norm_weight` [num_inputs]: normalise `hidden` first. `is_gated`: `weight` has twice `num_outputs` rows, and
    `silu` of the first half is multiplied with the second. All tensors are contiguous.
    """
    assert all(tensor.is_contiguous() for tensor in (hidden, weight, out))
    num_tokens, num_rows, num_inputs = len(hidden), *weight.shape
    blocks = blocks or matvec_blocks(num_rows, num_inputs, num_tokens)
    # A gate and what it lets through are of the same program.
    block_rows = max(blocks.num_rows, 2) if is_gated else blocks.num_rows
    _matvec_kernel[(triton.cdiv(num_rows, block_rows),)](
        hidden,
        norm_weight,
        weight,
        bias,
        out,
        num_tokens,
        out.shape[-1],
        eps,
        NUM_INPUTS=num_inputs,
        IS_GATED=is_gated,
        ADDS=adds,
        BLOCK_TOKENS=triton.next_power_of_2(num_tokens),
        BLOCK_N=block_rows,
        BLOCK_K=blocks.num_inputs,
        num_warps=blocks.num_warps,
    )


@triton.jit
def _matvec_kernel(
    hidden_ptr,
    norm_weight_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    num_outputs,
    eps,
    NUM_INPUTS: tl.constexpr,
    IS_GATED: tl.constexpr,
    ADDS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if IS_GATED:
        # The row of a gate and that of what it lets through alternate.
        is_row = rows // 2 < num_outputs
        rows = rows // 2 + rows % 2 * num_outputs
    else:
        is_row = rows < num_outputs
    NUM_OUTPUTS: tl.constexpr = BLOCK_N // 2 if IS_GATED else BLOCK_N
    outputs = tl.program_id(0) * NUM_OUTPUTS + tl.arange(0, NUM_OUTPUTS)
    is_output = outputs < num_outputs
    # Token, row, column: the input is loaded in the same dimensions as the weight, so that its elements come to the
    # threads that hold their weights.
    tokens = tl.arange(0, BLOCK_TOKENS)
    columns = tl.arange(0, BLOCK_K)[None, None, :]
    weights = weight_ptr + rows.to(tl.int64)[None, :, None] * NUM_INPUTS + columns
    inputs_of_tokens = hidden_ptr + tokens[:, None, None] * NUM_INPUTS + columns
    is_token = (tokens < num_tokens)[:, None, None]
    place = tokens[:, None] * num_outputs + outputs[None, :]
    is_place = (tokens < num_tokens)[:, None] & is_output[None, :]

    # All that is read is asked for early, weights one turn ahead.
    mask = is_row[None, :, None] & (columns < NUM_INPUTS)
    tile = tl.load(weights, mask=mask, other=0.0, eviction_policy="evict_first")
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + rows, mask=is_row, other=0.0).to(tl.float32)
    if ADDS:
        before = tl.load(out_ptr + place, mask=is_place, other=0.0).to(tl.float32)

    products = tl.zeros([BLOCK_TOKENS, BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_TOKENS, 1, BLOCK_K], tl.float32)
    for start in range(0, NUM_INPUTS, BLOCK_K):
        ahead = start + BLOCK_K
        mask = is_row[None, :, None] & (columns < NUM_INPUTS - ahead)
        next_tile = tl.load(weights + ahead, mask=mask, other=0.0, eviction_policy="evict_first")
        is_column = columns < NUM_INPUTS - start
        inputs = tl.load(inputs_of_tokens + start, mask=is_token & is_column, other=0.0).to(tl.float32)
        if norm_weight_ptr is not None:
            squares += inputs * inputs
            inputs *= tl.load(norm_weight_ptr + start + columns, mask=is_column, other=0.0).to(tl.float32)
        products += inputs * tile.to(tl.float32)
        tile = next_tile

    result = tl.sum(products, axis=2)
    if norm_weight_ptr is not None:
        # The norm's scale is the same for all inputs of a token, so it can wait for the end of the sum.
        result *= tl.rsqrt(tl.sum(squares, axis=2) / NUM_INPUTS + eps)
    if bias_ptr is not None:
        result += bias[None, :]
    if IS_GATED:
        gate, up = tl.split(result.reshape(BLOCK_TOKENS, NUM_OUTPUTS, 2))
        result = silu_times(gate, up)
    if ADDS:
        result += before
    tl.store(out_ptr + place, result, mask=is_place)
