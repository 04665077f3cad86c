"""The tensors of one forward pass."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """All sequences of a step, one after the other: first `num_decodes` with one token each, then the chunks.

    `token_ids`, `positions`, `slot_mapping` are [num_tokens]; `page_tables` is [num_seqs, max_pages] int32,
    `context_lens` is [num_seqs]. `logit_rows` are the rows whose logits are wanted, None for all.
    """

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    page_tables: Tensor
    context_lens: Tensor
    num_decodes: int
    max_decode_context_len: int
    chunk_lens: list[int]
    chunk_context_lens: list[int]
    logit_rows: Tensor | None
