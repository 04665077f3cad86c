"""CUDA graphs of decode steps, one per batch size; smaller batches are padded to the next one.

A graph replays hundreds of kernels for the price of one launch (https://pytorch.org/docs/stable/notes/cuda.html).
"""

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

# Kernels compile and libraries choose their algorithms in the first of these; the second one shows that they have.
_NUM_WARMUPS = 2


def bucket_sizes(max_size: int) -> list[int]:
    """Batch sizes up to `max_size`: close together where padding would be a large part."""
    sizes = [1, 2, 4, 8, *range(16, 128, 8), *range(128, 256, 16), *range(256, max_size, 32), max_size]
    return sorted({size for size in sizes if size <= max_size})


class DecodeGraphs:
    """Owns the recorded graphs, which share their memory: never more than one runs at a time."""

    def __init__(self, forward: Callable[[int], Tensor], sizes: list[int]) -> None:
        """`forward(n)` runs one step of n sequences and returns their logits, without any help of the host."""
        self._sizes = sorted(sizes)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        # The largest first: the smaller ones then fit into its memory.
        with tqdm(sorted(sizes, reverse=True), desc="Capturing batches", unit="graph") as progress:
            for size in progress:
                progress.set_postfix(bs=size)
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(_NUM_WARMUPS):
                        forward(size)
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=stream):
                    logits = forward(size)
                self._graphs[size] = (graph, logits)

    def bucket(self, num_seqs: int) -> int | None:
        """The smallest recorded size that holds so many; None if there is none."""
        place = bisect_left(self._sizes, num_seqs)
        return self._sizes[place] if place < len(self._sizes) else None

    def replay(self, size: int) -> Tensor:
        """Queue the step of this size. Its logits [size, vocab_size] are good until the next replay."""
        graph, logits = self._graphs[size]
        graph.replay()
        return logits
