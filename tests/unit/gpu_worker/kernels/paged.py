"""Random sequences in scattered pages, for tests that compare an attention with the reference in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops import attention as reference

TOLERANCES = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}


@dataclass(frozen=True)
class Shape:
    """What a kernel is compiled for."""

    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    window: int | None = None

    @property
    def scale(self) -> float:
        """As decoders choose it."""
        return self.head_dim**-0.5


class PagedSequences:
    """One layer's cache, in which every slot that belongs to no sequence is NaN."""

    def __init__(self, shape: Shape, context_lens: list[int], device: str) -> None:
        self.shape = shape
        self.generator = torch.Generator().manual_seed(sum(context_lens))
        self.device = device
        num_seqs, page_size = len(context_lens), shape.page_size
        widest = max(1, *(-(-length // page_size) for length in context_lens))
        # Of more pages than are used, and not in the order of the sequences.
        pages = torch.randperm(num_seqs * widest + 3, generator=self.generator)
        self.page_tables = pages[: num_seqs * widest].view(num_seqs, widest).int().to(device)
        cache_shape = (len(pages), page_size, shape.num_kv_heads, shape.head_dim)
        self.k_cache = torch.full(cache_shape, torch.nan, dtype=shape.dtype)
        self.v_cache = torch.full(cache_shape, torch.nan, dtype=shape.dtype)
        for table, length in zip(self.page_tables.cpu().long(), context_lens, strict=True):
            places = torch.arange(length)
            slots = table[places // page_size] * page_size + places % page_size
            for cache in (self.k_cache, self.v_cache):
                cache.flatten(0, 1)[slots] = self.randn(length, shape.num_kv_heads, shape.head_dim)
        self.k_cache, self.v_cache = self.k_cache.to(device), self.v_cache.to(device)
        self.context_lens = torch.tensor(context_lens, dtype=torch.int32, device=device)

    def randn(self, *size: int) -> Tensor:
        """Of the shape's dtype, on the CPU."""
        return torch.randn(size, generator=self.generator).to(self.shape.dtype)

    def queries(self, num_tokens: int) -> Tensor:
        """[num_tokens, num_heads, head_dim]."""
        return self.randn(num_tokens, self.shape.num_heads, self.shape.head_dim).to(self.device)

    def expected_decode(self, query: Tensor) -> Tensor:
        """The reference; zero for sequences without context."""
        expected = reference.paged_decode_attention(
            query.double(),
            self.k_cache.double().nan_to_num(),
            self.v_cache.double().nan_to_num(),
            self.page_tables,
            None,
            self.context_lens,
            reference.DecodePlan(int(self.context_lens.max())),
            self.shape.scale,
            self.shape.window,
        )
        expected[self.context_lens == 0] = 0
        return expected

    def expected_prefill(self, query: Tensor, query_starts: Tensor) -> Tensor:
        """The reference, which knows no chunks without tokens."""
        has_tokens = query_starts.diff() > 0
        return reference.paged_prefill_attention(
            query.double(),
            self.k_cache.double().nan_to_num(),
            self.v_cache.double().nan_to_num(),
            self.page_tables[has_tokens],
            None,
            query_starts[torch.cat((has_tokens, has_tokens.new_ones(1)))],
            self.context_lens[has_tokens],
            int(query_starts.diff().max()),
            self.shape.scale,
            self.shape.window,
        )


def worst_error(out: Tensor, expected: Tensor) -> float:
    """The largest relative error of a row, in norm. NaN counts as infinite, and so does anything instead of zeros."""
    error = (out.double() - expected).flatten(1).norm(dim=1)
    size = expected.flatten(1).norm(dim=1)
    return float(torch.where(error == 0, 0.0, error / size).nan_to_num(nan=torch.inf).max())
