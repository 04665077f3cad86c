"""The begin of a decode step: every sequence goes one token further, without the host."""

from torch import Tensor


def begin_decode_(
    table_rows: Tensor,
    context_lens: Tensor,
    last_ids: Tensor,
    page_tables: Tensor,
    page_size: int,
    token_ids: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
) -> None:
    """Count one more token in `context_lens`, and write id, position and slot of that token. All are int32.

    Sequence i of [num_seqs] has row `table_rows[i]` of `last_ids` [num_rows] (its last sampled token) and `page_tables`
    [num_rows, max_pages]. A row of -1 is padding: it has no token, a context of 0 and the slot -1.
    """
    is_real = table_rows >= 0
    rows = table_rows.clamp(min=0).long()
    positions.copy_(context_lens * is_real)
    context_lens.copy_((context_lens + 1) * is_real)
    token_ids.copy_(last_ids[rows] * is_real)
    pages = page_tables[rows, (positions // page_size).long()]
    slots = pages * page_size + positions % page_size
    slot_mapping.copy_(slots.where(is_real, -1))
