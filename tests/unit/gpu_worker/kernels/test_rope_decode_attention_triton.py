"""Rotation, cache write and attention of decodes in one Triton launch, against the twin in float64."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops import attention as reference
from gpu_worker.kernels.triton_ops.attention import make_decode_plan, plan_decode_, rope_decode_attention
from gpu_worker.kernels.triton_ops.decode_attention import DecodeBlocks, decode_blocks
from gpu_worker.models.rope import RopeConfig, rope_tables
from tests.unit.gpu_worker.kernels.conftest import DEVICE
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds
from tests.unit.gpu_worker.kernels.paged import TOLERANCES, PagedSequences, Shape, worst_error

allow_computed_loop_bounds()

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
ON_GPU = DEVICE == "cuda"
EPS, NUM_POSITIONS = 1e-6, 33_000 if ON_GPU else 1000

# With a normalisation of heads or not.
SHAPES = [
    (Shape(FP32, num_heads=4, num_kv_heads=4, head_dim=8, page_size=1), True),
    (Shape(FP32, num_heads=14, num_kv_heads=2, head_dim=16, page_size=16, window=50), False),
    (Shape(FP16, num_heads=3, num_kv_heads=1, head_dim=96, page_size=64), True),
]
LENS = [[1], [0, 130, 1, 0], [5, 200, 64, 65, 129]]
if ON_GPU:
    SHAPES += [
        (Shape(BF16, num_heads=14, num_kv_heads=2, head_dim=64, page_size=16), False),
        (Shape(BF16, num_heads=28, num_kv_heads=4, head_dim=128, page_size=16), False),
        (Shape(BF16, num_heads=16, num_kv_heads=8, head_dim=128, page_size=16), True),
        (Shape(BF16, num_heads=28, num_kv_heads=4, head_dim=128, page_size=16, window=100), False),
        (Shape(BF16, num_heads=4, num_kv_heads=4, head_dim=64, page_size=16, window=1), True),
        (Shape(FP16, num_heads=6, num_kv_heads=2, head_dim=64, page_size=64), False),
        (Shape(FP32, num_heads=8, num_kv_heads=2, head_dim=128, page_size=64), True),
    ]
    LENS += [[32_000], [8_000, *(17 * i % 300 for i in range(30))], [i + 250 for i in range(256)]]


class Decodes:
    """Sequences whose last token is not yet in the cache, where there is NaN instead."""

    def __init__(self, shape: Shape, is_normed: bool, context_lens: list[int]) -> None:
        self.shape, self.paged = shape, PagedSequences(shape, context_lens, DEVICE)
        num_seqs, page_size = len(context_lens), shape.page_size
        last = (self.paged.context_lens - 1).clamp(min=0)
        pages = self.paged.page_tables.gather(1, (last // page_size).long()[:, None])[:, 0]
        self.is_real = self.paged.context_lens > 0
        self.slots = torch.where(self.is_real, pages * page_size + last % page_size, -1).int()
        for cache in (self.paged.k_cache, self.paged.v_cache):
            cache.flatten(0, 1)[self.slots[self.is_real].long()] = torch.nan
        width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self.qkv = self.paged.randn(num_seqs, width).to(DEVICE)
        self.norms = [self.paged.randn(shape.head_dim).to(DEVICE) if is_normed else None for _ in range(2)]
        tables = rope_tables(RopeConfig(shape.head_dim, 10_000.0), NUM_POSITIONS, FP32)
        self.cos, self.signed_sin = (table.to(DEVICE) for table in tables)

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of the sequences that have a token, and both caches."""
        paged, real = self.paged, self.is_real
        caches = [cache.double() for cache in (paged.k_cache, paged.v_cache)]
        numbers = [cache.nan_to_num() for cache in caches]
        norms = [None if norm is None else norm.double() for norm in self.norms]
        slots = self.slots[real]
        out = reference.rope_decode_attention(
            self.qkv[real].double(),
            self.cos.double(),
            self.signed_sin.double(),
            *norms,
            EPS,
            *numbers,
            slots,
            paged.page_tables[real],
            None,
            paged.context_lens[real],
            reference.plan_decodes(paged.context_lens),
            self.shape.scale,
            self.shape.window,
        )
        for cache, number in zip(caches, numbers, strict=True):
            cache.flatten(0, 1)[slots.long()] = number.flatten(0, 1)[slots.long()]
        return out, caches[0], caches[1]

    def run(self, blocks: DecodeBlocks | None = None) -> Callable[[], Tensor]:
        """What launches the kernel, which writes the caches, with page tables found by rows."""
        shape, paged = self.shape, self.paged
        num_seqs = len(self.qkv)
        sizes = (num_seqs + 3, shape.num_heads, shape.num_kv_heads, shape.head_dim, torch.device(DEVICE))
        plan = make_decode_plan(*sizes, programs_per_processor=4 if ON_GPU else 1, min_item_tokens=64)
        plan.partial_out.fill_(torch.nan)
        plan.partial_lse.fill_(torch.nan)
        plan_decode_(plan, paged.context_lens)
        rows = torch.arange(num_seqs, device=DEVICE, dtype=torch.int32).flip(0)
        inputs = (self.cos, self.signed_sin, *self.norms, EPS, paged.k_cache, paged.v_cache, self.slots)
        tables = (paged.page_tables.flip(0), rows, paged.context_lens)
        return lambda: rope_decode_attention(self.qkv, *inputs, *tables, plan, shape.scale, shape.window, blocks)


def assert_as_expected(decodes: Decodes, out: Tensor, expected: tuple[Tensor, Tensor, Tensor]) -> None:
    tolerance = TOLERANCES[decodes.shape.dtype]
    attended, *caches = expected
    assert worst_error(out[decodes.is_real], attended) < tolerance
    assert not out[~decodes.is_real].any()
    for cache, expected_cache in zip((decodes.paged.k_cache, decodes.paged.v_cache), caches, strict=True):
        # What is in no context stays NaN.
        assert torch.equal(cache.isnan(), expected_cache.isnan())
        assert worst_error(cache.nan_to_num().flatten(0, -2), expected_cache.nan_to_num().flatten(0, -2)) < tolerance
    assert torch.equal(decodes.paged.v_cache.double().nan_to_num(), caches[1].nan_to_num())


@pytest.mark.parametrize(("shape", "is_normed"), SHAPES, ids=str)
def test_decodes_see_their_context_and_their_own_token_and_store_it(shape: Shape, is_normed: bool) -> None:
    for context_lens in LENS:
        decodes = Decodes(shape, is_normed, context_lens)
        expected = decodes.expected()
        assert_as_expected(decodes, decodes.run()(), expected)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(("tokens", "warps"), [(16, 1), (32, 2), (128, 4)])
def test_decodes_are_the_same_however_they_are_cut(tokens: int, warps: int, in_place: bool) -> None:
    shape, is_normed = SHAPES[0]
    decodes = Decodes(shape, is_normed, [200, 3])
    expected = decodes.expected()
    blocks = replace(
        decode_blocks(shape.dtype, 2, shape.head_dim), tokens=tokens, num_warps=warps, combines_in_place=in_place
    )
    assert_as_expected(decodes, decodes.run(blocks)(), expected)


@pytest.mark.parametrize("bug", ["a wrong position", "another key", "key and value exchanged"])
def test_the_tolerance_sees_a_bug(bug: str) -> None:
    shape, is_normed = SHAPES[1]
    decodes = Decodes(replace(shape, window=None), is_normed, [70, 90])
    expected, *_ = decodes.expected()
    size = shape.num_kv_heads * shape.head_dim
    if bug == "a wrong position":
        decodes.cos, decodes.signed_sin = decodes.cos[1:].contiguous(), decodes.signed_sin[1:].contiguous()
    elif bug == "another key":
        decodes.qkv[:, -2 * size : -size] -= 100 * decodes.qkv[:, :size]
    else:
        decodes.qkv[:, -2 * size :] = decodes.qkv[:, -2 * size :].roll(size, 1)
    assert worst_error(decodes.run()(), expected) > TOLERANCES[shape.dtype]
