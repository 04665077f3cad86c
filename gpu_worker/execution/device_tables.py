"""What a device knows of every running sequence, by its table row, so that steps need not tell it anew."""

from collections.abc import Iterable

import numpy as np
import torch

from gpu_worker.execution.uploads import Uploads
from gpu_worker.scheduling.sequence import Sequence


class DeviceTables:
    """`page_tables` [num_rows, max_pages], `last_ids` and `prompt_lens` [num_rows], all int32."""

    def __init__(self, num_rows: int, max_pages: int, device: torch.device, uploads: Uploads) -> None:
        self.page_tables = torch.zeros((num_rows, max_pages), dtype=torch.int32, device=device)
        self.last_ids = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self.prompt_lens = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._uploads = uploads

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """Take in sequences that have just been admitted."""
        columns = [(sequence.table_row, sequence.num_prompt_tokens) for sequence in sequences]
        rows, prompt_lens = self._uploads.upload(np.array(columns, dtype=np.int32).T)
        self.prompt_lens[rows] = prompt_lens

    def sync_pages(self, sequences: Iterable[Sequence]) -> None:
        """Bring the page tables of these sequences up to date."""
        width, places, page_ids = self.page_tables.shape[1], [], []
        for sequence in sequences:
            begin, end = sequence.num_synced_pages, len(sequence.page_table)
            if begin != end:
                first = sequence.table_row * width
                places += range(first + begin, first + end)
                page_ids += sequence.page_table[begin:]
                sequence.num_synced_pages = end
        if places:
            written, pages = self._uploads.upload(np.array((places, page_ids), dtype=np.int32))
            self.page_tables.view(-1).scatter_(0, written.long(), pages)
