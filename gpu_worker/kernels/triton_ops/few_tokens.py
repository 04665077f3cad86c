"""A few tokens through a projection: tensor cores on rows padded to sixteen, each weight read once.

As in `matvec`, the time is that of reading the weights, and what stands beside the product is done in passing.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from gpu_worker.kernels.triton_ops import launch
from gpu_worker.kernels.triton_ops.activation import silu_times
from gpu_worker.kernels.triton_ops.matvec import weight_rows

MAX_TOKENS = 16
_MAX_TILES = 4096


@dataclass(frozen=True, slots=True)
class FewTokensBlocks:
    """How the product is cut: `num_rows` of the weight per tile, whose columns are shared by `num_splits` programs."""

    num_rows: int
    num_inputs: int
    num_splits: int
    num_stages: int
    num_warps: int


@cache
def few_tokens_blocks(num_rows: int, num_inputs: int) -> FewTokensBlocks:
    """Blocks for a weight [num_rows, num_inputs]."""
    num_processors = 132
    rows = next((n for n in (64, 32) if num_rows >= n * 2 * num_processors), 16)
    num_tiles = triton.cdiv(num_rows, rows)
    # A split is worth its reduction when without it processors are idle for long.
    splits = 1
    while num_tiles * splits < num_processors and num_inputs >= 1024 * splits:
        splits *= 2
    inputs = 64 if num_inputs <= 64 else 128
    return FewTokensBlocks(rows, inputs, splits, num_stages=4 if rows == 64 else 6, num_warps=4)


def few_tokens(
    hidden: Tensor,
    norm_weight: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    is_gated: bool = False,
    adds: bool = False,
    blocks: FewTokensBlocks | None = None,
) -> None:
    """As `matvec`, for `hidden` [num_tokens, num_inputs] of at most sixteen tokens.

    With `norm_weight`, `hidden * norm_weight` must not overflow its data type: the scale is applied to the sums.
    """
    num_tokens, num_rows, num_inputs = len(hidden), *weight.shape
    blocks = blocks or few_tokens_blocks(num_rows, num_inputs)
    num_tiles, num_splits = triton.cdiv(num_rows, blocks.num_rows), blocks.num_splits
    partials = squares = arrivals = None
    if num_splits > 1:
        assert num_tiles <= _MAX_TILES
        partials = hidden.new_empty((num_splits, MAX_TOKENS, num_tiles * blocks.num_rows), dtype=torch.float32)
        squares = hidden.new_empty((num_splits, num_tiles, MAX_TOKENS), dtype=torch.float32)
        arrivals = arrival_counts(hidden.device)
    _few_tokens_kernel[(num_tiles, num_splits)](
        hidden,
        norm_weight,
        weight,
        bias,
        out,
        partials,
        squares,
        arrivals,
        num_tokens,
        out.shape[-1],
        eps,
        NUM_INPUTS=num_inputs,
        IS_GATED=is_gated,
        ADDS=adds,
        NUM_SPLITS=num_splits,
        BLOCK_M=MAX_TOKENS,
        BLOCK_N=blocks.num_rows,
        BLOCK_K=blocks.num_inputs,
        DEPENDENT=launch.DEPENDENT_LAUNCH,
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        launch_pdl=launch.DEPENDENT_LAUNCH,
    )


@cache
def arrival_counts(device: torch.device) -> Tensor:
    """How many splits of a tile are done, [max_tiles]; zero between launches, as each kernel leaves them.

    There is one for a device, so kernels that use it must not run at the same time. It must not be made while a graph
    is captured, which would own its memory.
    """
    assert device.type != "cuda" or not torch.cuda.is_current_stream_capturing(), "run once before capturing a graph"
    return torch.zeros(_MAX_TILES, dtype=torch.int32, device=device)


@triton.jit(do_not_specialize=["num_tokens"])
def _few_tokens_kernel(
    hidden_ptr,
    norm_weight_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    partials_ptr,
    squares_ptr,
    arrivals_ptr,
    num_tokens,
    num_outputs,
    eps,
    NUM_INPUTS: tl.constexpr,
    IS_GATED: tl.constexpr,
    ADDS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    tokens = tl.arange(0, BLOCK_M)
    rows, is_row = weight_rows(num_outputs, BLOCK_N, IS_GATED)
    columns = tl.arange(0, BLOCK_K)
    inputs = hidden_ptr + tokens[:, None] * NUM_INPUTS + columns[None, :]
    weights = weight_ptr + rows.to(tl.int64)[None, :] * NUM_INPUTS + columns[:, None]
    if DEPENDENT:
        gdc_launch_dependents()
        gdc_wait()

    SPLIT: tl.constexpr = (NUM_INPUTS + NUM_SPLITS * BLOCK_K - 1) // (NUM_SPLITS * BLOCK_K) * BLOCK_K
    first = tl.program_id(1) * SPLIT
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if norm_weight_ptr is not None:
        # Squares are summed by tensor cores too, in every column alike: so the input is needed in one layout only.
        squares = tl.zeros([BLOCK_M, 16], tl.float32)
        ones = tl.full([BLOCK_K, 16], 1.0, tl.float32).to(weight_ptr.dtype.element_ty)
        # Too narrow to be fetched in stages as the rest, so by hand one turn ahead.
        norm_weight = tl.load(norm_weight_ptr + first + columns, mask=columns < NUM_INPUTS - first, other=0.0)
    for step in range(0, SPLIT, BLOCK_K):
        start = first + step  # beyond the inputs where they end within the last split
        is_column = columns < NUM_INPUTS - start
        mask = (tokens < num_tokens)[:, None] & is_column[None, :]
        hidden = tl.load(inputs + start, mask=mask, other=0.0)
        mask = is_row[None, :] & is_column[:, None]
        tile = tl.load(weights + start, mask=mask, other=0.0, eviction_policy="evict_first")
        if norm_weight_ptr is not None:
            ahead = start + BLOCK_K
            next_weight = tl.load(norm_weight_ptr + ahead + columns, mask=columns < NUM_INPUTS - ahead, other=0.0)
            exact = hidden.to(tl.float32)
            squares = tl.dot((exact * exact).to(tile.dtype), ones, squares, input_precision="ieee")
            hidden = (exact * norm_weight.to(tl.float32)[None, :]).to(tile.dtype)
            norm_weight = next_weight
        sums = tl.dot(hidden, tile, sums, input_precision="ieee")
    norms = tl.zeros([BLOCK_M], tl.float32)
    if norm_weight_ptr is not None:
        norms = tl.max(squares, axis=1)

    if NUM_SPLITS == 1:
        _finish(
            sums, norms, norm_weight_ptr, bias_ptr, out_ptr, num_tokens, num_outputs, eps, NUM_INPUTS, IS_GATED, ADDS
        )
    else:
        # Every split leaves its sums; the last to arrive adds all of them, in their order and not in that of arrival.
        tile_id, num_tiles = tl.program_id(0), tl.num_programs(0)
        places = tokens[:, None] * (num_tiles * BLOCK_N) + tile_id * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        partials_stride = BLOCK_M * num_tiles * BLOCK_N
        norm_places = tile_id * BLOCK_M + tokens
        split = tl.program_id(1)
        tl.store(partials_ptr + split * partials_stride + places, sums)
        if norm_weight_ptr is not None:
            tl.store(squares_ptr + split * num_tiles * BLOCK_M + norm_places, norms)
        tl.debug_barrier()
        num_arrived = tl.atomic_add(arrivals_ptr + tile_id, 1, sem="acq_rel")
        if num_arrived == NUM_SPLITS - 1:
            sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            norms = tl.zeros([BLOCK_M], tl.float32)
            for other in tl.static_range(NUM_SPLITS):
                sums += tl.load(partials_ptr + other * partials_stride + places, cache_modifier=".cg")
                if norm_weight_ptr is not None:
                    norms += tl.load(squares_ptr + other * num_tiles * BLOCK_M + norm_places, cache_modifier=".cg")
            _finish(
                sums,
                norms,
                norm_weight_ptr,
                bias_ptr,
                out_ptr,
                num_tokens,
                num_outputs,
                eps,
                NUM_INPUTS,
                IS_GATED,
                ADDS,
            )
            tl.store(arrivals_ptr + tile_id, 0)


@triton.jit
def _finish(
    sums,
    norms,
    norm_weight_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    num_outputs,
    eps,
    NUM_INPUTS: tl.constexpr,
    IS_GATED: tl.constexpr,
    ADDS: tl.constexpr,
):
    """From sums [tokens, rows] and sums of squares [tokens] to the output."""
    BLOCK_M: tl.constexpr = sums.shape[0]
    BLOCK_N: tl.constexpr = sums.shape[1]
    NUM_OUTPUTS: tl.constexpr = BLOCK_N // 2 if IS_GATED else BLOCK_N
    rows, is_row = weight_rows(num_outputs, BLOCK_N, IS_GATED)
    if norm_weight_ptr is not None:
        sums *= tl.rsqrt(norms / NUM_INPUTS + eps)[:, None]
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + rows, mask=is_row, other=0.0).to(tl.float32)[None, :]
    if IS_GATED:
        gate, up = tl.split(sums.reshape(BLOCK_M, NUM_OUTPUTS, 2))
        sums = silu_times(gate, up)
    tokens = tl.arange(0, BLOCK_M)[:, None]
    outputs = tl.program_id(0) * NUM_OUTPUTS + tl.arange(0, NUM_OUTPUTS)[None, :]
    places = out_ptr + tokens * num_outputs + outputs
    mask = (tokens < num_tokens) & (outputs < num_outputs)
    if ADDS:
        sums += tl.load(places, mask=mask, other=0.0).to(tl.float32)
    tl.store(places, sums, mask=mask)
