"""The last step of filtered sampling: the exact cut and the draw, from a list of ids or from the whole row."""

import triton
import triton.language as tl

from gpu_worker.kernels import sampling_row
from gpu_worker.kernels.triton_ops.cut import find_cut, sort_key, total_from
from gpu_worker.kernels.triton_ops.philox import gumbel_noise, philox_words
from gpu_worker.kernels.triton_ops.sampling import best_of, load_float, load_randomness, quad_lanes, quad_noise

_NUM_WORDS = tl.constexpr(sampling_row.NUM_WORDS)
_INVERSE_TEMPERATURE = tl.constexpr(sampling_row.INVERSE_TEMPERATURE)
_IS_FILTERED = tl.constexpr(sampling_row.IS_FILTERED)
_TOP_K = tl.constexpr(sampling_row.TOP_K)
_TOP_P = tl.constexpr(sampling_row.TOP_P)
_MIN_P = tl.constexpr(sampling_row.MIN_P)
_NO_ID = tl.constexpr(2**31 - 1)
_WEIGHT_ONE = tl.constexpr(2.0**40)


@triton.jit(do_not_specialize=["num_rows"])
def draw_kernel(
    logits,
    stride,
    parameters,
    rows,
    output_indexes,
    totals,
    bounds,
    listed,
    listed_ids,
    out,
    vocab_size,
    max_listed,
    num_rows,
    SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
):
    """One program per row."""
    place = tl.program_id(0)
    parameters += tl.load(rows + place).to(tl.int64) * _NUM_WORDS
    if tl.load(parameters + _IS_FILTERED) != 0:
        scale = load_float(parameters + _INVERSE_TEMPERATURE)
        top_k, top_p = tl.load(parameters + _TOP_K), load_float(parameters + _TOP_P)
        min_p = load_float(parameters + _MIN_P)
        output_index, choice, seed_low, seed_high = load_randomness(parameters, output_indexes + place)
        best, total = tl.load(totals + place), tl.load(totals + num_rows + place)
        total_weight = (total.to(tl.float64) * _WEIGHT_ONE).to(tl.int64)

        num_listed = tl.load(bounds + 2 * num_rows + place)
        logits += place.to(tl.int64) * stride
        listed += place.to(tl.int64) * max_listed
        listed_ids += place.to(tl.int64) * max_listed
        is_complete = num_listed <= max_listed
        if is_complete:
            is_bound_by_min_p = tl.load(bounds + num_rows + place) != 0
            if top_k < vocab_size:
                is_complete = is_bound_by_min_p | (num_listed >= top_k)
            elif not is_bound_by_min_p:
                lowest = tl.load(bounds + place)
                weight = total_from(listed, num_listed, lowest, best, scale, True, SHIFT, BLOCK)
                is_complete = (top_p < 1.0) & (weight.to(tl.float64) >= total_weight.to(tl.float64) * top_p)
        if is_complete:
            key, num_equals = find_cut(
                listed, num_listed, top_k, top_p, total_weight, vocab_size, best, scale, SHIFT, BLOCK
            )
            end = _end_of_equals(listed, listed_ids, num_listed, key, num_equals, vocab_size, SHIFT, BLOCK)
            lanes = tl.arange(0, BLOCK)
            scores = tl.full([BLOCK], float("-inf"), tl.float32)
            ids = tl.full([BLOCK], _NO_ID, tl.int32)
            for start in range(0, num_listed, BLOCK):
                mask = start + lanes < num_listed
                x = tl.load(listed + start + lanes, mask=mask, other=float("-inf")).to(tl.float32)
                token_ids = tl.load(listed_ids + start + lanes, mask=mask, other=_NO_ID)
                noise = _noise_at(token_ids, output_index, choice, seed_low, seed_high)
                passes = mask & _passes(x, token_ids, key, end, best, scale, min_p, SHIFT)
                score = tl.where(passes, x * scale + noise, float("-inf"))
                is_better = (score > scores) | ((score == scores) & (token_ids < ids))
                scores = tl.where(is_better, score, scores)
                ids = tl.where(is_better, token_ids, ids)
            _, token_id = best_of(scores, ids)
            tl.store(out + place, tl.where(token_id < vocab_size, token_id, 0).to(tl.int64))
        else:
            key, num_equals = find_cut(
                logits, vocab_size, top_k, top_p, total_weight, vocab_size, best, scale, SHIFT, ROW_BLOCK
            )
            end = _end_of_equals_in_row(logits, key, num_equals, vocab_size, SHIFT, ROW_BLOCK)
            quads = quad_lanes(BLOCK // 4)
            row_scores = tl.full([BLOCK // 4, 4], float("-inf"), tl.float32)
            row_ids = quads
            for start in range(0, vocab_size, BLOCK):
                row_token_ids = start + quads
                row_mask = row_token_ids < vocab_size
                row_x = tl.load(logits + row_token_ids, mask=row_mask, other=float("-inf")).to(tl.float32)
                row_passes = row_mask & _passes(row_x, row_token_ids, key, end, best, scale, min_p, SHIFT)
                if tl.max(tl.max(row_passes.to(tl.int32), 1), 0) > 0:
                    row_noise = quad_noise(start, output_index, choice, seed_low, seed_high, BLOCK // 4)
                    row_score = tl.where(row_passes, row_x * scale + row_noise, float("-inf"))
                    row_is_better = row_score > row_scores
                    row_scores = tl.where(row_is_better, row_score, row_scores)
                    row_ids = tl.where(row_is_better, row_token_ids, row_ids)
            _, token_id = best_of(tl.reshape(row_scores, [BLOCK]), tl.reshape(row_ids, [BLOCK]))
            tl.store(out + place, tl.where(token_id < vocab_size, token_id, 0).to(tl.int64))


@triton.jit
def _passes(x, token_ids, key, end, best, scale, min_p, SHIFT: tl.constexpr):
    keys = sort_key(x, SHIFT)
    return ((keys > key) | ((keys == key) & (token_ids < end))) & (tl.exp((x - best) * scale) >= min_p)


@triton.jit
def _noise_at(token_ids, output_index, choice, seed_low, seed_high):
    counters = (token_ids >> 2).to(tl.uint32)
    w0, w1, w2, w3 = philox_words(counters, output_index, choice, seed_low, seed_high)
    word = token_ids & 3
    return gumbel_noise(tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3)))


@triton.jit
def _end_of_equals(
    listed, listed_ids, num_listed, key, num_equals, vocab_size, SHIFT: tl.constexpr, BLOCK: tl.constexpr
):
    """The lowest id so that `num_equals` ids of sort key `key` are below it, or all there are."""
    low, high = num_equals.to(tl.int32) * 0, vocab_size
    if _num_equals(listed, listed_ids, num_listed, key, high, SHIFT, BLOCK) <= num_equals:
        low = high
    while low < high:
        end = (low + high) // 2
        if _num_equals(listed, listed_ids, num_listed, key, end, SHIFT, BLOCK) >= num_equals:
            high = end
        else:
            low = end + 1
    return low


@triton.jit
def _num_equals(listed, listed_ids, num_listed, key, end, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_listed, BLOCK):
        mask = start + lanes < num_listed
        x = tl.load(listed + start + lanes, mask=mask, other=float("-inf")).to(tl.float32)
        token_ids = tl.load(listed_ids + start + lanes, mask=mask, other=_NO_ID)
        count += (mask & (sort_key(x, SHIFT) == key) & (token_ids < end)).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def _end_of_equals_in_row(logits, key, num_equals, vocab_size, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    """The same for a whole row, whose ids are in order: one pass."""
    lanes = tl.arange(0, BLOCK)
    num_before = num_equals * 0
    end = tl.full([], 0, tl.int32) + vocab_size
    for start in range(0, vocab_size, BLOCK):
        mask = start + lanes < vocab_size
        x = tl.load(logits + start + lanes, mask=mask, other=float("-inf")).to(tl.float32)
        equals = (mask & (sort_key(x, SHIFT) == key)).to(tl.int32)
        num_here = tl.sum(equals, 0)
        if (num_before < num_equals) & (num_before + num_here >= num_equals):
            is_last = (equals > 0) & (num_before + tl.cumsum(equals, 0) == num_equals)
            end = tl.min(tl.where(is_last, start + lanes + 1, vocab_size), 0)
        num_before += num_here
    return end
