"""The tensors of one forward pass."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """All sequences of a step, one after the other: first `num_decodes` with one token each, then the chunks.

    `token_ids`, `positions`, `slot_mapping` are [num_tokens]. `page_tables` is [num_rows, max_pages] int32; sequence i
    has its row `table_rows[i]`, or row i if `table_rows` is None. `context_lens` is [num_seqs] int32, `chunk_starts`
    [num_chunks + 1] int32 counts from the first token of the first chunk, None without chunks. `decode_plan` is what
    `plan_decodes` of the kernels made of the decodes. `logit_rows` are the rows whose logits are wanted, None for all.
    """

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    page_tables: Tensor
    table_rows: Tensor | None
    context_lens: Tensor
    num_decodes: int
    decode_plan: Any
    chunk_starts: Tensor | None
    max_chunk_len: int
    logit_rows: Tensor | None

    @property
    def num_chunks(self) -> int:
        """Sequences that run a part of their prefill."""
        return 0 if self.chunk_starts is None else self.chunk_starts.shape[0] - 1
