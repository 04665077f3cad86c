"""Tables of sampling parameters for kernel tests."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.kernels import sampling_row


@dataclass(frozen=True)
class Row:
    """One row's parameters; off and greedy by default."""

    temperature: float = 0.0
    seed: int = 0
    choice: int = 0
    output_index: int = 0
    top_k: int = 1 << 20
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def is_filtered(self) -> bool:
        return self.temperature > 0 and (self.top_k < 1 << 20 or self.top_p < 1.0 or self.min_p > 0.0)

    def words(self) -> np.ndarray:
        words = np.zeros(sampling_row.NUM_WORDS, dtype=np.int32)
        floats = words.view(np.float32)
        floats[sampling_row.INVERSE_TEMPERATURE] = 1 / self.temperature if self.temperature else 0.0
        words[[sampling_row.SEED_LOW, sampling_row.SEED_HIGH]] = np.array([self.seed], np.int64).view(np.int32)
        words[sampling_row.CHOICE] = self.choice
        words[sampling_row.IS_FILTERED] = self.is_filtered
        words[sampling_row.TOP_K] = self.top_k
        floats[[sampling_row.TOP_P, sampling_row.MIN_P]] = self.top_p, self.min_p
        return words


@dataclass(frozen=True)
class Tables:
    """What the kernels take: the table in an order that is not that of the batch, with rubbish between its rows."""

    parameters: Tensor
    rows: Tensor
    output_indexes: Tensor


def tables(rows: list[Row], device: str) -> Tables:
    places = [3 * (len(rows) - i) for i in range(len(rows))]
    words = np.full((3 * len(rows) + 1, sampling_row.NUM_WORDS), 0x55555555, dtype=np.int32)
    words[places] = [row.words() for row in rows]
    columns = np.array((places, [row.output_index for row in rows]), dtype=np.int32)
    place_column, index_column = torch.from_numpy(columns).to(device).unbind()
    return Tables(torch.from_numpy(words).to(device), place_column, index_column)
