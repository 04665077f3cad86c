"""Where the filters cut a row: the head of the row, sorted by value and then by id, that top-k and top-p let pass.

Nothing is sorted. Values map to integers of the same order, and bisection finds the lowest one that passes by counting
and weighing what is not below it. Weights are integers too, so their sums do not depend on the order of summation.
"""

import triton
import triton.language as tl

# exp(value - best) in units of 2**-40: what is negligible vanishes, and a sum over any vocabulary fits 63 bits.
_WEIGHT_ONE = tl.constexpr(2.0**40)
_NO_ID = tl.constexpr(2**31 - 1)


@triton.jit
def sort_key(x, SHIFT: tl.constexpr):
    """An int32 that orders as the float32 `x` does, with -0 equal to 0.

    `SHIFT` bits that are the same in every value of x's own dtype are left out, which shortens the bisection.
    """
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> SHIFT


@triton.jit
def key_value(key, SHIFT: tl.constexpr):
    """The float32 whose `sort_key` is `key`."""
    bits = (key << SHIFT) + tl.where(key < 0, (1 << SHIFT) - 1, 0)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def middle(low, high):
    """The mean of two int32, rounded up, without overflow."""
    return (low >> 1) + (high >> 1) + ((low | high) & 1)


@triton.jit
def weight(x, best, inverse_temperature):
    """Probability relative to the best id's, as int64."""
    return (tl.exp((x - best) * inverse_temperature) * _WEIGHT_ONE).to(tl.int64)


@triton.jit
def total_from(
    values, num_values, key, best, inverse_temperature, WEIGHS: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr
):
    """Number (or weight) of the values whose sort key is at least `key`, as int64."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int64) if WEIGHS else tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_values, BLOCK):
        mask = start + lanes < num_values
        x = tl.load(values + start + lanes, mask=mask, other=float("-inf")).to(tl.float32)
        passes = mask & (sort_key(x, SHIFT) >= key)
        if WEIGHS:
            total += tl.where(passes, weight(x, best, inverse_temperature), 0)
        else:
            total += passes.to(tl.int32)
    return tl.sum(total, 0).to(tl.int64)


@triton.jit
def highest_key_reaching(
    values,
    num_values,
    target,
    low,
    high,
    best,
    inverse_temperature,
    WEIGHS: tl.constexpr,
    SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The highest key in (low, high] from which the total is at least `target`; `low` if there is none."""
    while low < high:
        key = middle(low, high)
        if total_from(values, num_values, key, best, inverse_temperature, WEIGHS, SHIFT, BLOCK) >= target:
            low = key
        else:
            high = key - 1
    return low


@triton.jit
def find_cut(
    values,
    num_values,
    top_k,
    top_p,
    total_weight,
    vocab_size,
    best,
    inverse_temperature,
    SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The lowest key that passes top-k and then top-p, and how many of its equals pass (those of the lowest ids).

    `total_weight` (int64) is that of the whole row, of which `values` may be a head that surely holds the result.
    """
    low = sort_key(tl.full([], float("-inf"), tl.float32), SHIFT)
    high = sort_key(best, SHIFT)
    num_equals = tl.full([], _NO_ID, tl.int64)
    if top_k < vocab_size:
        low = highest_key_reaching(values, num_values, top_k, low, high, best, inverse_temperature, False, SHIFT, BLOCK)
        num_equals = top_k - total_from(values, num_values, low + 1, best, inverse_temperature, False, SHIFT, BLOCK)
    if top_p < 1.0:
        if top_k < vocab_size:
            lowest = weight(key_value(low, SHIFT), best, inverse_temperature)
            above = total_from(values, num_values, low + 1, best, inverse_temperature, True, SHIFT, BLOCK)
            total_weight = above + tl.minimum(num_equals, num_values) * lowest
        target = tl.maximum((total_weight.to(tl.float64) * top_p).to(tl.int64), 1)
        key = highest_key_reaching(values, num_values, target, low, high, best, inverse_temperature, True, SHIFT, BLOCK)
        above = total_from(values, num_values, key + 1, best, inverse_temperature, True, SHIFT, BLOCK)
        each = tl.maximum(weight(key_value(key, SHIFT), best, inverse_temperature), 1)
        num_reaching = tl.maximum((target - above + each - 1) // each, 1)
        num_equals = tl.minimum(num_reaching, tl.where(key == low, num_equals, _NO_ID))
        low = key
    return low, num_equals
