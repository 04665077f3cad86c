"""The token that a decode adds to its sequence, inside the attention: query, key and value come of one projection."""

import triton
import triton.language as tl


@triton.jit
def load_angles(cos, signed_sin, position, HEAD_DIM: tl.constexpr, BLOCK_DIMS: tl.constexpr):
    """Cosines and signed sines of a position, [BLOCK_DIMS] float32."""
    dims = tl.arange(0, BLOCK_DIMS)
    place = position.to(tl.int64) * HEAD_DIM + dims
    cosine = tl.load(cos + place, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)
    sine = tl.load(signed_sin + place, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)
    return cosine, sine


@triton.jit
def load_rotated(heads, exists, cosine, sine, norm, eps, HEAD_DIM: tl.constexpr, BLOCK_DIMS: tl.constexpr):
    """The heads at the pointers `heads` [num_heads], normalised if there is a `norm`, and rotated.

    [num_heads, BLOCK_DIMS] float32; zero where `exists` [num_heads] is false and beyond the head's size.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    dims = tl.arange(0, BLOCK_DIMS)
    # What a rotation mixes into a dimension is that of the other half.
    others = tl.where(dims < HALF, dims + HALF, dims - HALF)
    inside = exists[:, None] & (dims < HEAD_DIM)[None, :]
    own = tl.load(heads[:, None] + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    other = tl.load(heads[:, None] + others[None, :], mask=inside, other=0.0).to(tl.float32)
    if norm is not None:
        inverse = tl.rsqrt(tl.sum(own * own, axis=1) / HEAD_DIM + eps)[:, None]
        own *= inverse * tl.load(norm + dims, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)[None, :]
        other *= inverse * tl.load(norm + others, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)[None, :]
    return own * cosine[None, :] + other * sine[None, :]


@triton.jit
def store_new_token(
    key_head,
    value_head,
    k_row,
    v_row,
    is_new,
    cosine,
    sine,
    key_norm,
    eps,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """Rotate the key, write it and the value to their rows of the caches if `is_new`, and give both as stored.

    Both are [1, BLOCK_DIMS]; zero if not `is_new`.
    """
    dims = tl.arange(0, BLOCK_DIMS)[None, :]
    one = tl.arange(0, 1)
    inside = is_new & (dims < HEAD_DIM)
    key = load_rotated(key_head + one, is_new & (one == 0), cosine, sine, key_norm, eps, HEAD_DIM, BLOCK_DIMS)
    key = key.to(k_row.dtype.element_ty)
    value = tl.load(value_head + dims, mask=inside, other=0.0).to(v_row.dtype.element_ty)
    tl.store(k_row + dims, key, mask=inside)
    tl.store(v_row + dims, value, mask=inside)
    return key, value
