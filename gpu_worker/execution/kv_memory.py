"""The memory of the KV cache: how many pages fit, and the tensors of each layer."""

import math

import numpy as np
import torch

from gpu_worker.models.config import ModelConfig
from gpu_worker.models.decoder import KvLayer


class NotEnoughMemoryError(Exception):
    """The memory left for the KV cache does not hold a single page."""


def bytes_per_page(config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """Keys and values of all layers for the tokens of one page."""
    return 2 * config.num_layers * page_size * config.num_kv_heads * config.head_dim * dtype.itemsize


def pages_that_fit(num_bytes: int, config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """How many pages `num_bytes` hold. Raises `NotEnoughMemoryError` if it is none."""
    page_bytes = bytes_per_page(config, page_size, dtype)
    if num_bytes < page_bytes:
        raise NotEnoughMemoryError(
            f"The KV cache needs at least {page_bytes} bytes (one page of {page_size} tokens), "
            f"but only {num_bytes} bytes are left for it."
        )
    return num_bytes // page_bytes


def kv_bytes(free: int, total: int, num_own_bytes: int, num_step_bytes: int, fraction: float) -> int:
    """What the KV cache may take of a device: up to `fraction` of `total` with what this process has already.

    `free` is what is left on the device, to others as well, who have shares of their own. What a step needs must be
    left in any case. All in bytes; negative if there is too little.
    """
    return min(int(total * fraction) - num_own_bytes, free - num_step_bytes)


def allocate_kv(
    config: ModelConfig, num_pages: int, page_size: int, device: torch.device, dtype: torch.dtype
) -> list[KvLayer]:
    """Per layer, keys and values [num_pages, page_size, num_kv_heads, head_dim].

    Zeroed: a masked slot is multiplied by zero, which a stray NaN would survive.
    """
    shape = (num_pages, page_size, config.num_kv_heads, config.head_dim)

    def zeros() -> torch.Tensor:
        return (
            _untouched_zeros(shape, dtype) if device.type == "cpu" else torch.zeros(shape, device=device, dtype=dtype)
        )

    return [(zeros(), zeros()) for _ in range(config.num_layers)]


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take memory only where they are written: `torch.zeros` would touch every page of it now."""
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
