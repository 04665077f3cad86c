"""Philox4x32-10 and Gumbel noise inside kernels; words are those of `torch_ops.philox`.

The noise is computed in float32. It differs from the float64 noise of the same word by at most 6e-7 for noise between
-1 and 2, and by at most 3e-7 of its size plus 1e-6 beyond, up to the extremes -3.1 and 22.9.
"""

import triton
import triton.language as tl

# The interpreter knows no assembly; its logarithm is numpy's.
_HAS_ASSEMBLY = tl.constexpr(not triton.knobs.runtime.interpret)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def philox_words(counters, output_index, choice, seed_low, seed_high):
    """Four words, uint32 of the shape of `counters`, for the counters (counter, output index, choice, 0).

    All are uint32 and all but `counters` are scalars, which spares one of two products in the first two rounds.
    """
    c0, c1, c2, c3 = counters, output_index, choice, tl.zeros_like(choice)
    k0, k1 = seed_low, seed_high
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c2 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def log2(x):
    """Base-2 logarithm of normal positive numbers: absolute error 2**-22 for 0.5 < x < 2, else relative 2**-22."""
    if _HAS_ASSEMBLY:
        result = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        result = tl.log2(x)
    return result


@triton.jit
def gumbel_noise(words):
    """-log(-log(u)) for u = (word + 0.5) * 2**-32, without ever forming a u that rounds to 1.

    Below 3/4, -log2(u) is at least 0.41 and the hardware's logarithm is good enough. Above, 1 - u is exact up to
    rounding, and a polynomial (relative error 6e-8) gives -log2(1 - (1 - u)) without cancellation.
    """
    uniform = (words.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    rest = ((words ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    series = 0.20879653096199036 + rest * 0.4883372485637665
    series = 0.371672123670578 + rest * series
    series = 0.4802330434322357 + rest * series
    series = 0.7213619947433472 + rest * series
    series = 1.4426950216293335 + rest * series
    exponential = tl.where(rest < 0.25, rest * series, -log2(uniform))
    return -_LN_2 * log2(exponential) + 0.36651292058166435
