"""Sampling with top-k, top-p and min-p, without a sort.

What passes is a head of the row, nearly always a small one. Four launches: (1) the best of every group of 32 ids and
the sum of the probabilities; (2) from the bests of the groups a value that what passes is very likely not below;
(3) a list of the ids not below it; (4) the exact cut and the draw within the list. The fourth checks that the list
holds all that passes, and else takes the whole row instead, which is slower by an order of magnitude.

Ids of equal logits pass in ascending order, as a stable sort has them. Every result depends on its row alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels import sampling_row
from gpu_worker.kernels.triton_ops.cut import middle, sort_key
from gpu_worker.kernels.triton_ops.filtered_draw import draw_kernel
from gpu_worker.kernels.triton_ops.sampling import Launch, load_float

_NUM_WORDS = tl.constexpr(sampling_row.NUM_WORDS)
_INVERSE_TEMPERATURE = tl.constexpr(sampling_row.INVERSE_TEMPERATURE)
_IS_FILTERED = tl.constexpr(sampling_row.IS_FILTERED)
_TOP_K = tl.constexpr(sampling_row.TOP_K)
_TOP_P = tl.constexpr(sampling_row.TOP_P)
_MIN_P = tl.constexpr(sampling_row.MIN_P)

_GROUP_SIZE = 32
# Groups per program of the first launch. Sums are per strip, so it must not depend on the number of rows.
_STRIP = 64
_MAX_LISTED = 8192
# Groups that may have listed ids. A group has more than one of them rarely, so the list has room for all.
_MAX_GROUPS = tl.constexpr(2048)
_DRAW_BLOCK = 2048
_DRAW_BLOCK_OF_ROW = 8192

# Bits that are the same in all values of a dtype, once they are float32.
_SHIFTS = {torch.bfloat16: 16, torch.float16: 13, torch.float32: 0}


def filtered_sample_(
    token_ids: Tensor,
    logits: Tensor,
    parameters: Tensor,
    rows: Tensor,
    output_indexes: Tensor,
    *,
    max_listed: int = _MAX_LISTED,
) -> None:
    """Replace int64 `token_ids` [num_rows] in the rows that have filters. The rest is as for `sampling.sample`.

    `max_listed` is the room for ids in a row's list.
    """
    num_rows, vocab_size = logits.shape
    device, shift = logits.device, _SHIFTS[logits.dtype]
    num_strips = triton.cdiv(triton.cdiv(vocab_size, _GROUP_SIZE), _STRIP)
    group_bests = torch.empty((num_rows, num_strips * _STRIP), dtype=torch.float32, device=device)
    strips = torch.empty((2, num_rows, num_strips), dtype=torch.float32, device=device)
    # Of each row: best logit and sum of probabilities relative to it.
    totals = torch.empty((2, num_rows), dtype=torch.float32, device=device)
    # Of each row: lowest key listed, whether min-p alone gave it, length of the list.
    bounds = torch.empty((3, num_rows), dtype=torch.int32, device=device)
    listed = torch.empty((num_rows, max_listed), dtype=logits.dtype, device=device)
    listed_ids = torch.empty((num_rows, max_listed), dtype=torch.int32, device=device)

    _survey_kernel[(num_strips, num_rows)](
        logits, logits.stride(0), parameters, rows, group_bests, strips, vocab_size, num_rows, _GROUP_SIZE, _STRIP
    )
    _bound_kernel[(num_rows,)](
        parameters,
        rows,
        group_bests,
        strips,
        totals,
        bounds,
        vocab_size,
        num_strips,
        triton.next_power_of_2(num_strips * _STRIP),
        triton.next_power_of_2(num_strips),
        _STRIP,
        shift,
        num_warps=16,
    )
    launch = Launch(1024, 4) if num_rows <= 4 else Launch(2048, 8)
    ids_per_program, num_splits = launch.split(num_rows, vocab_size)
    _list_kernel[(num_splits, num_rows)](
        logits,
        logits.stride(0),
        parameters,
        rows,
        bounds,
        listed,
        listed_ids,
        vocab_size,
        ids_per_program,
        max_listed,
        num_rows,
        shift,
        launch.block,
        num_warps=launch.num_warps,
    )
    draw_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        parameters,
        rows,
        output_indexes,
        totals,
        bounds,
        listed,
        listed_ids,
        token_ids,
        vocab_size,
        max_listed,
        num_rows,
        shift,
        _DRAW_BLOCK,
        _DRAW_BLOCK_OF_ROW,
        num_warps=16,
    )


@triton.jit(do_not_specialize=["num_rows"])
def _survey_kernel(
    logits,
    stride,
    parameters,
    rows,
    group_bests,
    strips,
    vocab_size,
    num_rows,
    GROUP_SIZE: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Group g has the ids g, g + G, g + 2G and so on: ids of the same frequency, which are neighbours, are apart."""
    strip, place, num_strips = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    parameters += tl.load(rows + place).to(tl.int64) * _NUM_WORDS
    if tl.load(parameters + _IS_FILTERED) != 0:
        inverse_temperature = load_float(parameters + _INVERSE_TEMPERATURE)
        groups = strip * STRIP + tl.arange(0, STRIP)
        token_ids = tl.arange(0, GROUP_SIZE)[:, None] * (num_strips * STRIP) + groups[None, :]
        logits += place.to(tl.int64) * stride
        x = tl.load(logits + token_ids, mask=token_ids < vocab_size, other=float("-inf")).to(tl.float32)
        bests = tl.max(x, 0)
        tl.store(group_bests + (place * num_strips * STRIP).to(tl.int64) + groups, bests)
        best = tl.max(bests, 0)
        # Of a strip without a finite value the sum must be 0 and not undefined.
        shifted = x - tl.where(best == float("-inf"), 0.0, best)
        sums = tl.sum(tl.exp(shifted * inverse_temperature), 0)
        tl.store(strips + place * num_strips + strip, best)
        tl.store(strips + (num_rows + place) * num_strips + strip, tl.sum(sums, 0))


@triton.jit
def _bound_kernel(
    parameters,
    rows,
    group_bests,
    strips,
    totals,
    bounds,
    vocab_size,
    num_strips,
    GROUPS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The ids not below a value number at least as many as the groups whose best is not below it, and weigh as much.

    So if these groups number `top_k`, or their bests weigh `top_p` of all, no id below passes.
    """
    place, num_rows = tl.program_id(0), tl.num_programs(0)
    parameters += tl.load(rows + place).to(tl.int64) * _NUM_WORDS
    if tl.load(parameters + _IS_FILTERED) != 0:
        inverse_temperature = load_float(parameters + _INVERSE_TEMPERATURE)
        top_k, top_p = tl.load(parameters + _TOP_K), load_float(parameters + _TOP_P)
        min_p = load_float(parameters + _MIN_P)

        lanes = tl.arange(0, STRIPS)
        mask = lanes < num_strips
        strip_bests = tl.load(strips + place * num_strips + lanes, mask=mask, other=float("-inf"))
        strip_sums = tl.load(strips + (num_rows + place) * num_strips + lanes, mask=mask, other=0.0)
        best = tl.max(strip_bests, 0)
        best = tl.where(best == float("-inf"), 0.0, best)
        total = tl.sum(strip_sums * tl.exp((strip_bests - best) * inverse_temperature), 0)

        groups = tl.arange(0, GROUPS)
        mask = groups < num_strips * STRIP
        group_bests += (place * num_strips * STRIP).to(tl.int64)
        x = tl.load(group_bests + groups, mask=mask, other=float("-inf"))
        keys = sort_key(x, SHIFT)
        weights = tl.exp((x - best) * inverse_temperature)
        has_top_k = top_k < vocab_size
        num_enough = tl.where(has_top_k, tl.minimum(top_k, _MAX_GROUPS), _MAX_GROUPS)
        weight_enough = tl.where(has_top_k | (top_p >= 1.0), float("inf"), top_p * total)
        low = sort_key(tl.full([], float("-inf"), tl.float32), SHIFT)
        high = sort_key(best, SHIFT)
        # Any key that has enough will do: for float32 the last bits of the highest one are not worth their time.
        for _ in range(20):
            key = middle(low, high)
            passes = keys >= key
            is_enough = (tl.sum(passes.to(tl.int32), 0) >= num_enough) | (
                tl.sum(tl.where(passes, weights, 0.0), 0) >= weight_enough
            )
            low = tl.where(is_enough, key, low)
            high = tl.where(is_enough, high, key - 1)

        # What min-p drops may be left out of the list, unless top-p counts it among the top_k.
        least = best + tl.log(tl.maximum(min_p, 1e-30)) / inverse_temperature
        least = sort_key(least - 1e-5 * tl.abs(least) - 1e-5 / inverse_temperature, SHIFT)
        is_bound_by_min_p = (min_p > 0) & ((not has_top_k) | (top_p >= 1.0)) & (least >= low)
        tl.store(totals + place, best)
        tl.store(totals + num_rows + place, total)
        tl.store(bounds + place, tl.where(is_bound_by_min_p, least, low))
        tl.store(bounds + num_rows + place, is_bound_by_min_p.to(tl.int32))
        tl.store(bounds + 2 * num_rows + place, 0)


@triton.jit(do_not_specialize=["num_rows"])
def _list_kernel(
    logits,
    stride,
    parameters,
    rows,
    bounds,
    listed,
    listed_ids,
    vocab_size,
    ids_per_program,
    max_listed,
    num_rows,
    SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Blocks append in any order; the result does not depend on it. Its length counts what has no room, too."""
    place = tl.program_id(1)
    parameters += tl.load(rows + place).to(tl.int64) * _NUM_WORDS
    if tl.load(parameters + _IS_FILTERED) != 0:
        lowest = tl.load(bounds + place)
        logits += place.to(tl.int64) * stride
        listed += place.to(tl.int64) * max_listed
        listed_ids += place.to(tl.int64) * max_listed
        lanes = tl.arange(0, BLOCK)
        first = tl.program_id(0) * ids_per_program
        for start in range(first, tl.minimum(first + ids_per_program, vocab_size), BLOCK):
            token_ids = start + lanes
            mask = token_ids < vocab_size
            x = tl.load(logits + token_ids, mask=mask, other=float("-inf"))
            passes = mask & (sort_key(x.to(tl.float32), SHIFT) >= lowest)
            num_passing = tl.sum(passes.to(tl.int32), 0)
            if num_passing > 0:
                end = tl.atomic_add(bounds + 2 * num_rows + place, num_passing, sem="relaxed")
                slots = end + tl.cumsum(passes.to(tl.int32), 0) - 1
                passes = passes & (slots < max_listed)
                tl.store(listed + slots, x, mask=passes)
                tl.store(listed_ids + slots, token_ids, mask=passes)
