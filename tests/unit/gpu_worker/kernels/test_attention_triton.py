"""The Triton kernels of attention against their twins in float64."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.triton_ops.attention import (
    DecodePlan,
    make_decode_plan,
    paged_decode_attention,
    paged_prefill_attention,
    plan_decode_,
)
from gpu_worker.kernels.triton_ops.decode_attention import decode_blocks
from tests.unit.gpu_worker.kernels.conftest import DEVICE
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds
from tests.unit.gpu_worker.kernels.paged import TOLERANCES, PagedSequences, Shape, worst_error

allow_computed_loop_bounds()

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
ON_GPU = DEVICE == "cuda"

# Each shape is compiled anew, so they are chosen to cover pairs of properties, not all combinations.
SMALL_SHAPES = [
    Shape(FP32, num_heads=4, num_kv_heads=4, head_dim=8, page_size=1),
    Shape(FP32, num_heads=14, num_kv_heads=2, head_dim=16, page_size=16, window=50),
    Shape(FP16, num_heads=3, num_kv_heads=1, head_dim=96, page_size=64),
]
SHAPES = [
    Shape(BF16, num_heads=14, num_kv_heads=2, head_dim=64, page_size=16),
    Shape(BF16, num_heads=28, num_kv_heads=4, head_dim=128, page_size=16),
    Shape(BF16, num_heads=28, num_kv_heads=4, head_dim=128, page_size=16, window=100),
    Shape(BF16, num_heads=4, num_kv_heads=4, head_dim=64, page_size=1),
    Shape(BF16, num_heads=8, num_kv_heads=1, head_dim=96, page_size=64),
    Shape(FP16, num_heads=6, num_kv_heads=2, head_dim=64, page_size=64, window=70),
    Shape(FP16, num_heads=10, num_kv_heads=2, head_dim=128, page_size=1),
    Shape(FP32, num_heads=14, num_kv_heads=2, head_dim=64, page_size=16),
    Shape(FP32, num_heads=8, num_kv_heads=2, head_dim=128, page_size=64),
    Shape(FP32, num_heads=6, num_kv_heads=1, head_dim=32, page_size=16),
    Shape(FP32, num_heads=4, num_kv_heads=2, head_dim=8, page_size=1, window=7),
]
PARITY_SHAPES = SHAPES if ON_GPU else SMALL_SHAPES
ANY_SHAPE = SHAPES[0] if ON_GPU else SMALL_SHAPES[1]

DECODE_LENS = [[1], [0, 130, 1, 0], [5, 700, 64, 65, 129]]
if ON_GPU:
    DECODE_LENS += [[32_000], [8_000, *(17 * i % 300 for i in range(30))], [i + 250 for i in range(256)]]

CHUNKS = [([1], [1]), ([5, 1, 40, 0, 2], [5, 6, 40, 9, 70])]
if ON_GPU:
    CHUNKS += [([1000], [1000]), ([300], [1500]), ([128] * 40, [128 + 3 * i for i in range(40)])]


def decode_plan(paged: PagedSequences, *, min_item_tokens: int = 64) -> DecodePlan:
    """A plan larger than needed, filled."""
    shape = paged.shape
    num_seqs = paged.context_lens.shape[0]
    plan = make_decode_plan(
        num_seqs + 3,
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        torch.device(DEVICE),
        programs_per_processor=4 if ON_GPU else 1,
        min_item_tokens=min_item_tokens,
    )
    plan.partial_out.fill_(torch.nan)
    plan.partial_lse.fill_(torch.nan)
    plan_decode_(plan, paged.context_lens)
    return plan


def decode(paged: PagedSequences, query: Tensor, plan: DecodePlan, *, in_place: bool = True) -> Tensor:
    """Run the kernel; both ways to combine are tested."""
    shape = paged.shape
    return paged_decode_attention(
        query,
        paged.k_cache,
        paged.v_cache,
        paged.page_tables,
        None,
        paged.context_lens,
        plan,
        shape.scale,
        shape.window,
        replace(decode_blocks(shape.dtype, len(query), shape.head_dim), combines_in_place=in_place),
    )


@pytest.mark.parametrize(
    ("shape", "in_place"),
    [*((shape, True) for shape in PARITY_SHAPES), *((shape, False) for shape in PARITY_SHAPES[:2])],
    ids=str,
)
def test_decode_sees_the_whole_context(shape: Shape, in_place: bool) -> None:
    for context_lens in DECODE_LENS:
        paged = PagedSequences(shape, context_lens, DEVICE)
        query = paged.queries(len(context_lens))
        out = decode(paged, query, decode_plan(paged), in_place=in_place)
        assert worst_error(out, paged.expected_decode(query)) < TOLERANCES[shape.dtype], context_lens


def test_decode_finds_its_page_tables_by_rows() -> None:
    paged = PagedSequences(ANY_SHAPE, [70, 3, 150], DEVICE)
    query = paged.queries(3)
    expected = paged.expected_decode(query)
    tables = torch.cat((torch.full_like(paged.page_tables, 10**6), paged.page_tables.flip(0)))
    out = paged_decode_attention(
        query,
        paged.k_cache,
        paged.v_cache,
        tables,
        torch.tensor([5, 4, 3], device=DEVICE),
        paged.context_lens,
        decode_plan(paged),
        ANY_SHAPE.scale,
        ANY_SHAPE.window,
    )
    assert worst_error(out, expected) < TOLERANCES[ANY_SHAPE.dtype]


def test_decode_can_be_repeated_and_gives_the_same() -> None:
    paged = PagedSequences(ANY_SHAPE, [300, 1, 200], DEVICE)
    query, plan = paged.queries(3), decode_plan(paged)
    outs = [decode(paged, query, plan) for _ in range(2 + 20 * ON_GPU)]
    assert not plan.arrivals.any()
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("bug", ["a wrong scale", "the last token dropped", "two pages exchanged"])
def test_the_tolerance_sees_a_bug_in_a_decode(bug: str) -> None:
    shape = replace(ANY_SHAPE, window=None)
    paged = PagedSequences(shape, [170, 90], DEVICE)
    query = paged.queries(2)
    expected = paged.expected_decode(query)
    if bug == "a wrong scale":
        query = query * 1.05
    elif bug == "the last token dropped":
        paged.context_lens -= 1
    else:
        paged.page_tables[:, :1] = paged.page_tables[:, :1].flip(0)
    out = decode(paged, query, decode_plan(paged))
    assert worst_error(out, expected) > TOLERANCES[shape.dtype]


@pytest.mark.parametrize("context_lens", [[1], [0, 0, 0], [64 * 132 * 4], [100_000, *([0, 7, 300] * 5)], [513] * 40])
def test_the_work_list_covers_every_token_once(context_lens: list[int]) -> None:
    lens = torch.tensor(context_lens, dtype=torch.int32, device=DEVICE)
    plan = make_decode_plan(64, 8, 4, 64, torch.device(DEVICE))
    plan_decode_(plan, lens)
    num_items = int(plan.num_items)
    assert num_items <= len(lens) + plan.target_items
    items = plan.items[:num_items].tolist()
    for sequence, length in enumerate(context_lens):
        first, count = plan.sequence_items[sequence].tolist()
        own = items[first : first + count]
        stops = [0, *(item[2] for item in own)]
        assert [item[:6] for item in own] == [
            [sequence, start, stop, first, count, length] for start, stop in itertools.pairwise(stops)
        ]
        assert stops[-1] == length
        assert length == 0 or all(start < stop for start, stop in itertools.pairwise(stops))
    longest = max(stop - start for _, start, stop, *_ in items)
    assert longest <= max(plan.min_item_tokens, sum(context_lens) / plan.target_items + 64)


@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
def test_a_captured_decode_follows_the_lengths() -> None:
    shape = SHAPES[0]
    paged = PagedSequences(shape, [900, 3000, 40, 1], DEVICE)
    query, plan = paged.queries(4), decode_plan(paged)
    decode(paged, query, plan)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan_decode_(plan, paged.context_lens)
        outs = [decode(paged, query, plan) for _ in range(3)]
    for lens in ([900, 3000, 40, 1], [1, 2, 3, 0], [64, 65, 0, 1], [600, 2999, 39, 1]):
        paged.context_lens.copy_(torch.tensor(lens))
        graph.replay()
        expected = paged.expected_decode(query)
        assert all(worst_error(out, expected) < TOLERANCES[shape.dtype] for out in outs), lens
    assert not plan.arrivals.any()


def prefill(paged: PagedSequences, query: Tensor, starts: Tensor) -> Tensor:
    """Run the kernel."""
    return paged_prefill_attention(
        query,
        paged.k_cache,
        paged.v_cache,
        paged.page_tables,
        None,
        starts,
        paged.context_lens,
        int(starts.diff().max()),
        paged.shape.scale,
        paged.shape.window,
    )


def starts_of(query_lens: list[int]) -> Tensor:
    """[num_seqs + 1] int32."""
    return torch.tensor([0, *query_lens]).cumsum(0).int().to(DEVICE)


@pytest.mark.parametrize("shape", PARITY_SHAPES, ids=str)
def test_a_chunk_sees_the_cached_prefix_and_itself_causally(shape: Shape) -> None:
    for query_lens, context_lens in CHUNKS:
        paged = PagedSequences(shape, context_lens, DEVICE)
        query, starts = paged.queries(sum(query_lens)), starts_of(query_lens)
        out = prefill(paged, query, starts)
        assert worst_error(out, paged.expected_prefill(query, starts)) < TOLERANCES[shape.dtype], query_lens


def test_a_prefill_finds_its_page_tables_by_rows() -> None:
    paged = PagedSequences(ANY_SHAPE, [30, 3, 50], DEVICE)
    query, starts = paged.queries(33), starts_of([20, 3, 10])
    expected = paged.expected_prefill(query, starts)
    tables = torch.cat((torch.full_like(paged.page_tables, 10**6), paged.page_tables.flip(0)))
    rows = torch.tensor([5, 4, 3], device=DEVICE)
    out = paged_prefill_attention(
        query,
        paged.k_cache,
        paged.v_cache,
        tables,
        rows,
        starts,
        paged.context_lens,
        20,
        ANY_SHAPE.scale,
        ANY_SHAPE.window,
    )
    assert worst_error(out, expected) < TOLERANCES[ANY_SHAPE.dtype]


@pytest.mark.parametrize("bug", ["a wrong scale", "the last token dropped", "two pages exchanged"])
def test_the_tolerance_sees_a_bug_in_a_prefill(bug: str) -> None:
    paged = PagedSequences(replace(ANY_SHAPE, window=None), [70, 40], DEVICE)
    query, starts = paged.queries(60), starts_of([30, 30])
    expected = paged.expected_prefill(query, starts)
    if bug == "a wrong scale":
        query = query * 1.05
    elif bug == "the last token dropped":
        paged.context_lens -= 1
    else:
        paged.page_tables[:, :1] = paged.page_tables[:, :1].flip(0)
    assert worst_error(prefill(paged, query, starts), expected) > TOLERANCES[ANY_SHAPE.dtype]
