"""From arrays of the host to the device, without waiting for it."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class StagingRing:
    """A few page-locked buffers in turn. One is written again only when its last copy is done, which it is by then."""

    def __init__(self, device: torch.device, num_buffers: int = 8, num_words: int = 1 << 14) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._buffers = [self._new_buffer(num_words) for _ in range(num_buffers if self._is_cuda else 0)]
        self._copied = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._next = 0

    def upload(self, words: npt.NDArray[np.int32]) -> Tensor:
        """A new int32 tensor of the device with these words; they may be changed at once."""
        if not self._is_cuda:
            return torch.from_numpy(words.copy())
        turn = self._next
        self._next = (turn + 1) % len(self._buffers)
        self._copied[turn].synchronize()
        if len(self._buffers[turn]) < len(words):
            self._buffers[turn] = self._new_buffer(1 << (len(words) - 1).bit_length())
        buffer = self._buffers[turn][: len(words)]
        buffer.numpy()[:] = words
        on_device = buffer.to(self._device, non_blocking=True)
        self._copied[turn].record()
        return on_device

    def _new_buffer(self, num_words: int) -> Tensor:
        return torch.empty(num_words, dtype=torch.int32, pin_memory=True)
