"""Small arrays on their way to a device, through pinned memory that is allocated once."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int32]


class Uploads:
    """Copies that the host does not wait for.

    What is uploaded in a step stays where it is until the second step after it begins: by then the copies are through,
    since at most one step is launched before the one before it is.
    """

    def __init__(self, device: torch.device, num_ints: int = 1 << 20) -> None:
        self._device = device
        self._is_pinned = device.type == "cuda"
        self._buffers = [torch.empty(num_ints, dtype=torch.int32, pin_memory=self._is_pinned) for _ in range(2)]
        self._arrays = [buffer.numpy() for buffer in self._buffers]
        self._side = 0
        self._num_used = 0

    def begin_step(self) -> None:
        """What was uploaded in the step before the last may be overwritten."""
        self._side = 1 - self._side
        self._num_used = 0

    def upload(self, array: Ints) -> Tensor:
        """The same on the device; what does not fit into the pinned memory takes the slow way."""
        begin, end = self._num_used, self._num_used + array.size
        if not self._is_pinned or end > len(self._buffers[0]):
            return torch.from_numpy(array.copy()).to(self._device)
        self._arrays[self._side][begin:end] = array.ravel()
        self._num_used = -(-end // 32) * 32  # whole cache lines
        pinned = self._buffers[self._side][begin:end].view(array.shape)
        return pinned.to(self._device, non_blocking=True)
