"""What a device knows of every running sequence, by its table row, so that steps need not tell it anew."""

from collections.abc import Iterable

import numpy as np
import torch

from gpu_worker.execution.staging import StagingRing
from gpu_worker.scheduling.sequence import Sequence


class DeviceTables:
    """`page_tables` [num_rows, max_pages] and `prompt_lens` [num_rows] are int32, `last_ids` [num_rows] int64."""

    def __init__(self, num_rows: int, max_pages: int, device: torch.device, staging: StagingRing) -> None:
        self.page_tables = torch.zeros((num_rows, max_pages), dtype=torch.int32, device=device)
        self.last_ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.prompt_lens = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._staging = staging

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """Take in sequences that have just been admitted."""
        columns = [(sequence.table_row, sequence.num_prompt_tokens) for sequence in sequences]
        words = self._staging.upload(np.array(columns, dtype=np.int32).ravel())
        rows, prompt_lens = words.view(-1, 2).unbind(1)
        self.prompt_lens[rows] = prompt_lens

    def sync_pages(self, sequences: Iterable[Sequence]) -> None:
        """Bring the page tables of these sequences up to date."""
        width = self.page_tables.shape[1]
        places: list[int] = []
        page_ids: list[int] = []
        for sequence in sequences:
            begin, end = sequence.num_synced_pages, len(sequence.page_table)
            if begin != end:
                first = sequence.table_row * width
                places += range(first + begin, first + end)
                page_ids += sequence.page_table[begin:]
                sequence.num_synced_pages = end
        if places:
            written, pages = self._staging.upload(np.array(places + page_ids, dtype=np.int32)).view(2, -1)
            self.page_tables.view(-1).scatter_(0, written.long(), pages)
