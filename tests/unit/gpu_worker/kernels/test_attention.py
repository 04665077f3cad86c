"""Paged attention against attention over plain, contiguous keys and values, written out."""

import math

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops.attention import DecodePlan, paged_decode_attention, paged_prefill_attention
from gpu_worker.kernels.torch_ops.rope import write_kv

PAGE_SIZE, HEAD_DIM, SCALE = 4, 8, 0.3


class Paged:
    """Random sequences in scattered pages of one cache, whose unused slots are poisoned with large numbers."""

    def __init__(self, context_lens: list[int], num_heads: int, num_kv_heads: int) -> None:
        generator = torch.Generator().manual_seed(sum(context_lens))

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        widest = max(-(-length // PAGE_SIZE) for length in context_lens)
        num_pages = widest * len(context_lens)
        self.page_tables = torch.randperm(num_pages, generator=generator).view(len(context_lens), widest).int()
        self.k_cache = torch.full((num_pages, PAGE_SIZE, num_kv_heads, HEAD_DIM), 1e3, dtype=torch.float64)
        self.v_cache = self.k_cache.clone()
        self.queries = [randn(length, num_heads, HEAD_DIM) for length in context_lens]
        self.keys = [randn(length, num_kv_heads, HEAD_DIM) for length in context_lens]
        self.values = [randn(length, num_kv_heads, HEAD_DIM) for length in context_lens]
        for table, key, value in zip(self.page_tables, self.keys, self.values, strict=True):
            places = torch.arange(len(key))
            slots = table[places // PAGE_SIZE].long() * PAGE_SIZE + places % PAGE_SIZE
            write_kv(key, value, self.k_cache, self.v_cache, slots)

    def expected(self, sequence: int, window: int | None) -> Tensor:
        """[context_len, num_heads, head_dim] by the definition, a row at a time."""
        query, key, value = self.queries[sequence], self.keys[sequence], self.values[sequence]
        group = query.shape[1] // key.shape[1]
        rows = []
        for row in range(len(query)):
            first = 0 if window is None else max(0, row - window + 1)
            seen_key = key[first : row + 1].repeat_interleave(group, dim=1)
            seen_value = value[first : row + 1].repeat_interleave(group, dim=1)
            weights = torch.einsum("hd,lhd->hl", query[row], seen_key).mul(SCALE).softmax(dim=-1)
            rows.append(torch.einsum("hl,lhd->hd", weights, seen_value))
        return torch.stack(rows)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("context_lens", [[1], [9], [5, 16, 1, 8]])
def test_decode_sees_the_whole_context(heads: tuple[int, int], window: int | None, context_lens: list[int]) -> None:
    paged = Paged(context_lens, *heads)
    query = torch.stack([query[-1] for query in paged.queries])
    out = paged_decode_attention(
        query,
        paged.k_cache,
        paged.v_cache,
        paged.page_tables.flip(0),
        torch.arange(len(context_lens) - 1, -1, -1),
        torch.tensor(context_lens),
        DecodePlan(max(context_lens)),
        SCALE,
        window,
    )
    expected = torch.stack([paged.expected(sequence, window)[-1] for sequence in range(len(context_lens))])
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("query_lens", "context_lens"), [([1], [1]), ([7], [7]), ([3], [9]), ([5, 1, 16, 2], [5, 6, 16, 13])]
)
def test_a_chunk_sees_the_cached_prefix_and_itself_causally(
    heads: tuple[int, int], window: int | None, query_lens: list[int], context_lens: list[int]
) -> None:
    paged = Paged(context_lens, *heads)
    sequences = range(len(context_lens))
    query = torch.cat([paged.queries[s][-query_lens[s] :] for s in sequences])
    out = paged_prefill_attention(
        query,
        paged.k_cache,
        paged.v_cache,
        paged.page_tables.flip(0),
        torch.arange(len(context_lens) - 1, -1, -1),
        torch.tensor([0, *query_lens]).cumsum(0),
        torch.tensor(context_lens),
        max(query_lens),
        SCALE,
        window,
    )
    expected = torch.cat([paged.expected(s, window)[-query_lens[s] :] for s in sequences])
    torch.testing.assert_close(out, expected)


def test_a_long_chunk_is_masked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_worker.kernels.torch_ops.attention._QUERY_BLOCK", 4)
    paged = Paged([19], 4, 2)
    starts, context_lens = torch.tensor([0, 14]), torch.tensor([19])
    out = paged_prefill_attention(
        paged.queries[0][-14:], paged.k_cache, paged.v_cache, paged.page_tables, None, starts, context_lens, 14, SCALE
    )
    torch.testing.assert_close(out, paged.expected(0, None)[-14:])
    assert math.isfinite(out.sum().item())
