"""CUDA graphs: a step's kernels recorded once per size, and replayed for the price of one launch.

See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

# Kernels compile and libraries choose their algorithms in the first of these; the second one shows that they have.
_NUM_WARMUPS = 2


def decode_sizes(max_size: int) -> list[int]:
    """Batch sizes up to `max_size`: close together where padding would be a large part."""
    sizes = [1, 2, 4, 8, *range(16, 128, 8), *range(128, 256, 16), *range(256, max_size, 32), max_size]
    return sorted({size for size in sizes if size <= max_size})


def mixed_sizes(max_size: int) -> list[int]:
    """Numbers of tokens up to `max_size`, none more than half as large again as the one before it but the second."""
    sizes = [16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 1792, 2048]
    sizes += range(2560, max_size + 1, 512)
    return [size for size in sizes if size <= max_size]


def next_size(sizes: list[int], wanted: int) -> int | None:
    """The smallest of the sorted `sizes` that holds `wanted`; None if there is none."""
    place = bisect_left(sizes, wanted)
    return sizes[place] if place < len(sizes) else None


class Graphs(Generic[Key, Result]):
    """Recorded steps by key. They share their memory: what a replay gives is good until the next replay of any."""

    def __init__(self, pool: "GraphPool") -> None:
        self._pool = pool
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph, Result]] = {}

    def record(self, name: str, keys: list[Key], run: Callable[[Key], Result]) -> None:
        """Record `run(key)` for each key; those that take most memory should come first.

        `run` must not wait for the device, nor depend on anything of the host but the key.
        """
        with tqdm(keys, desc=f"Capturing {name}", unit="graph") as progress:
            for key in progress:
                progress.set_postfix_str(str(key))
                self._graphs[key] = self._pool.record(lambda key=key: run(key))  # type: ignore[misc]

    def __contains__(self, key: Key) -> bool:
        return key in self._graphs

    def replay(self, key: Key) -> Result:
        """Queue the step. Its result is where it always is."""
        graph, result = self._graphs[key]
        graph.replay()
        return result


class GraphPool:
    """The memory that graphs share, and the stream that they are recorded on."""

    def __init__(self) -> None:
        self._handle = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, run: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        """Run a few times, then record."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_NUM_WARMUPS):
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._handle, stream=self._stream):
            result = run()
        return graph, result
