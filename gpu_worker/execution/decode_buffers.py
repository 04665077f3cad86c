"""The tensors of decode steps, which stay at the same place of the device, so that CUDA graphs find them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.execution.staging import StagingRing


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """One entry per sequence, int32. A `table_rows` of -1 is padding, see `begin_decode_`."""

    table_rows: Tensor
    context_lens: Tensor
    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor


class DecodeBuffers:
    """Place for `max_seqs` sequences. All of it is padding until it is loaded."""

    def __init__(self, max_seqs: int, device: torch.device) -> None:
        self._state = torch.zeros((2, max_seqs), dtype=torch.int32, device=device)
        self._state[0] = -1
        self._outputs = torch.zeros((3, max_seqs), dtype=torch.int32, device=device)
        self._empty = np.zeros((2, max_seqs), dtype=np.int32)
        self._empty[0] = -1

    def load(self, columns: list[tuple[int, int]], staging: StagingRing) -> None:
        """The table row and the number of computed tokens of each sequence; the rest becomes padding."""
        state = self._empty.copy()
        state[:, : len(columns)] = np.array(columns, dtype=np.int32).T
        self._state.copy_(staging.upload(state.ravel()).view(2, -1))

    def first(self, num_seqs: int) -> DecodeRows:
        """Views of the first sequences."""
        return DecodeRows(*self._state[:, :num_seqs].unbind(), *self._outputs[:, :num_seqs].unbind())
