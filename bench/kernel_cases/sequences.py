"""Sequences in pages of 16 tokens, in random order, for the cases of attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

PAGE_SIZE, DTYPE = 16, torch.bfloat16


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of a model."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of a layer."""
        return 2 * DTYPE.itemsize * self.num_kv_heads * self.head_dim


class Sequences:
    """Caches with the pages of `num_sets` times the same lengths."""

    def __init__(self, heads: Heads, lens: list[int], num_queries: int, num_sets: int, device: torch.device) -> None:
        def random(*size: int) -> Tensor:
            return torch.empty(size, dtype=DTYPE, device=device).normal_()

        self.heads, self.lens, self.num_sets = heads, lens, num_sets
        num_pages = [-(-length // PAGE_SIZE) for length in lens]
        pages = torch.randperm(num_sets * sum(num_pages), device=device, dtype=torch.int32).view(num_sets, -1)
        self.page_tables = torch.zeros(num_sets, len(lens), max(num_pages), dtype=torch.int32, device=device)
        inside = torch.arange(max(num_pages), device=device) < torch.tensor(num_pages, device=device)[:, None]
        self.page_tables[:, inside] = pages
        self.k_cache = random(pages.numel(), PAGE_SIZE, heads.num_kv_heads, heads.head_dim)
        self.v_cache = random(pages.numel(), PAGE_SIZE, heads.num_kv_heads, heads.head_dim)
        self.query = random(num_sets, num_queries, heads.num_heads, heads.head_dim)
        self.context_lens = torch.tensor(lens, dtype=torch.int32, device=device)

    @property
    def num_bytes(self) -> int:
        """Keys and values of a set, its queries and its results."""
        return sum(self.lens) * self.heads.bytes_per_token + 2 * self.query[0].numel() * DTYPE.itemsize

    def contiguous(self, i: int) -> tuple[Tensor, Tensor]:
        """Keys and values of as many sequences of equal lengths, [num_seqs, num_kv_heads, length, head_dim]."""
        num_seqs, length = len(self.lens), sum(self.lens) // len(self.lens)
        first, shape = i * num_seqs * length, (num_seqs, length, self.heads.num_kv_heads, self.heads.head_dim)
        return (
            self.k_cache.flatten(0, 1)[first : first + num_seqs * length].view(shape).transpose(1, 2),
            self.v_cache.flatten(0, 1)[first : first + num_seqs * length].view(shape).transpose(1, 2),
        )
