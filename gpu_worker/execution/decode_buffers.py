"""The tensors of decode steps, which stay at the same place of the device, so that CUDA graphs find them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.execution.staging import StagingRing


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """One entry per sequence, int32. A `table_rows` of -1 is padding, see `begin_decode_`.

    `sampler_rows` are the same rows, but a spare one for padding, `chosen_ids` (int64) what is sampled.
    """

    table_rows: Tensor
    context_lens: Tensor
    sampler_rows: Tensor
    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    chosen_ids: Tensor


class DecodeBuffers:
    """Place for `max_seqs` sequences. All of it is padding until it is loaded; `spare_row` is nobody's table row."""

    def __init__(self, max_seqs: int, spare_row: int, device: torch.device) -> None:
        self._padding = np.zeros((3, max_seqs), dtype=np.int32)
        self._padding[0] = -1
        self._padding[2] = spare_row
        self._state = torch.from_numpy(self._padding.copy()).to(device)
        self._outputs = torch.zeros((3, max_seqs), dtype=torch.int32, device=device)
        self._chosen_ids = torch.zeros(max_seqs, dtype=torch.int64, device=device)
        self._views: dict[int, DecodeRows] = {}

    def load(self, columns: list[tuple[int, int]], staging: StagingRing) -> None:
        """The table row and the number of computed tokens of each sequence; the rest becomes padding."""
        state = self._padding.copy()
        state[:2, : len(columns)] = np.array(columns, dtype=np.int32).T
        state[2, : len(columns)] = state[0, : len(columns)]
        self._state.copy_(staging.upload(state.ravel()).view(3, -1))

    def first(self, num_seqs: int) -> DecodeRows:
        """Views of the first sequences."""
        views = self._views.get(num_seqs)
        if views is None:
            table_rows, context_lens, sampler_rows = self._state[:, :num_seqs]
            token_ids, positions, slots = self._outputs[:, :num_seqs]
            chosen_ids = self._chosen_ids[:num_seqs]
            views = DecodeRows(table_rows, context_lens, sampler_rows, token_ids, positions, slots, chosen_ids)
            self._views[num_seqs] = views
        return views
