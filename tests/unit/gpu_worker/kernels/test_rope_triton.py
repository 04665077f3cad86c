"""The Triton kernel of rotation and cache write against its twin in float64."""

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops import rope as reference
from gpu_worker.kernels.triton_ops.rope import rope_write_kv
from gpu_worker.models.rope import RopeConfig, rope_tables
from tests.unit.gpu_worker.kernels.conftest import DEVICE
from tests.unit.gpu_worker.kernels.paged import TOLERANCES, worst_error

ON_GPU = DEVICE == "cuda"
EPS, PAGE_SIZE, NUM_POSITIONS = 1e-6, 4, 3000

# Heads, key heads, head size, with a normalisation of heads or not.
SHAPES = [(14, 2, 64, False), (28, 4, 128, False), (6, 2, 96, False), (4, 4, 8, True), (5, 1, 96, True)]
if ON_GPU:
    SHAPES += [(16, 8, 128, True), (4, 2, 16, False), (8, 1, 32, True)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NUM_TOKENS = [1, 7, 500] if ON_GPU else [1, 7]


def run(num_tokens: int, shape: tuple[int, int, int, bool], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Queries and the two caches: what the kernel gives, and what is expected. Every third token is padding."""
    num_heads, num_kv_heads, head_dim, is_normed = shape
    generator = torch.Generator().manual_seed(num_tokens)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype).to(DEVICE)

    cos, signed_sin = (
        table.to(DEVICE) for table in rope_tables(RopeConfig(head_dim, 10_000.0), NUM_POSITIONS, torch.float32)
    )
    norms = (randn(head_dim), randn(head_dim)) if is_normed else (None, None)
    qkv = randn(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)
    positions = torch.randint(NUM_POSITIONS, (num_tokens,), generator=generator).to(DEVICE)
    num_pages = num_tokens // PAGE_SIZE + 2
    slots = torch.randperm(num_pages * PAGE_SIZE, generator=generator)[:num_tokens].to(DEVICE)
    slots[2::3] = -1
    caches = [torch.full((num_pages, PAGE_SIZE, num_kv_heads, head_dim), 1e3, device=DEVICE) for _ in range(2)]
    real = slots >= 0
    expected_caches = [cache.double() for cache in caches]
    doubles = [None if norm is None else norm.double() for norm in norms]
    tables = cos.double(), signed_sin.double()
    # Padding has queries too, which nobody reads; the reference writes them to a page of their own.
    queries = reference.rope_write_kv(
        qkv.double(), *tables, positions, *doubles, EPS, *(c.clone() for c in expected_caches), slots.clamp(min=0)
    )
    reference.rope_write_kv(qkv[real].double(), *tables, positions[real], *doubles, EPS, *expected_caches, slots[real])
    int_dtype = torch.int32 if num_tokens % 2 else torch.int64
    given = [cache.to(dtype) for cache in caches]
    out = rope_write_kv(qkv, cos, signed_sin, positions.to(int_dtype), *norms, EPS, *given, slots.to(int_dtype))
    return [(out, queries), *zip(given, expected_caches, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_queries_are_rotated_and_keys_and_values_stored(shape: tuple[int, int, int, bool], dtype: torch.dtype) -> None:
    for num_tokens in NUM_TOKENS:
        results = run(num_tokens, shape, dtype)
        for out, expected in results:
            assert worst_error(out.flatten(0, -2), expected.flatten(0, -2)) < TOLERANCES[dtype]
        _, (keys, expected_keys), (values, expected_values) = results
        # Values are copied, and slots that are not written keep every bit.
        assert torch.equal(values.double(), expected_values.to(dtype).double())
        untouched = expected_keys == 1e3
        assert torch.equal(keys.double()[untouched], expected_keys.to(dtype).double()[untouched])


def test_the_tolerance_sees_a_position_that_is_wrong_by_one() -> None:
    shape, dtype = SHAPES[0], DTYPES[0]
    cos, signed_sin = (table.to(DEVICE) for table in rope_tables(RopeConfig(64, 10_000.0), 10, torch.float32))
    qkv = torch.randn(3, 18 * 64, device=DEVICE).to(dtype)
    caches = [torch.zeros(2, PAGE_SIZE, shape[1], 64, dtype=dtype, device=DEVICE) for _ in range(2)]
    positions, slots = torch.arange(3, device=DEVICE), torch.arange(3, device=DEVICE)
    outs = [rope_write_kv(qkv, cos, signed_sin, positions + shift, None, None, EPS, *caches, slots) for shift in (0, 1)]
    assert worst_error(outs[1], outs[0].double()) > TOLERANCES[dtype]
