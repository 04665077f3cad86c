"""One kernel at one size."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelCase:
    """`run(i)` launches the kernel once on input set `i`, where 0 <= i < `num_sets`; so does `peer` for torch's way.

    Sets rotate, so that what a real step reads from memory does not come from the cache. `num_bytes` counts each input
    read once and each output written once.
    """

    name: str
    run: Callable[[int], object]
    num_sets: int
    num_bytes: int = 0
    num_flops: int = 0
    peer: Callable[[int], object] | None = None
    peer_name: str = ""
