"""Attention over paged keys and values, with grouped query heads.

A cache is [num_pages, page_size, num_kv_heads, head_dim]. Sequence i of a call has the pages of row `table_rows[i]` of
`page_tables` [num_rows, max_pages] (int32), in order, padded with any valid page; without `table_rows` row i itself.
`context_lens` [num_seqs] (int32) counts all tokens of a sequence, those of this step included. With a `sliding_window`
a token sees itself and the `sliding_window - 1` tokens before it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gpu_worker.kernels.torch_ops.rope import rope_write_kv

# Rows of queries that get an explicit mask at once: bounds the mask to this many times the context.
_QUERY_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What is known of a step's decodes before its first layer."""

    max_context_len: int


def plan_decodes(context_lens: Tensor) -> DecodePlan:
    """The plan for decodes of these context lengths [num_seqs]; waits for them."""
    return DecodePlan(int(context_lens.max()))


def paged_decode_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    context_lens: Tensor,
    plan: DecodePlan,
    scale: float,
    sliding_window: int | None = None,
) -> Tensor:
    """One query token per sequence: [num_seqs, num_heads, head_dim] in and out.

    The query heads of one group take the place of query tokens: they all see the same keys.
    """
    num_seqs, num_heads, head_dim = query.shape
    num_kv_heads, max_context_len = k_cache.shape[2], plan.max_context_len
    tables = page_tables if table_rows is None else page_tables[table_rows]
    key = _gather(k_cache, tables, max_context_len)
    value = _gather(v_cache, tables, max_context_len)
    mask = None
    if num_seqs > 1 or sliding_window is not None:
        mask = _decode_mask(context_lens, max_context_len, sliding_window)
    grouped = query.reshape(num_seqs, num_kv_heads, num_heads // num_kv_heads, head_dim)
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    return out.reshape(num_seqs, num_heads, head_dim)


def rope_decode_attention(
    qkv: Tensor,
    cos: Tensor,
    signed_sin: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    context_lens: Tensor,
    plan: DecodePlan,
    scale: float,
    sliding_window: int | None = None,
) -> Tensor:
    """`rope_write_kv` of one token per sequence, the last of its context, and `paged_decode_attention`.

    From stacked projections [num_seqs, (num_heads + 2 * num_kv_heads) * head_dim] to [num_seqs, num_heads, head_dim].
    """
    positions = (context_lens - 1).clamp(min=0)
    norms = (query_norm, key_norm, eps)
    query = rope_write_kv(qkv, cos, signed_sin, positions, *norms, k_cache, v_cache, slot_mapping)
    tables = (page_tables, table_rows, context_lens)
    return paged_decode_attention(query, k_cache, v_cache, *tables, plan, scale, sliding_window)


def paged_prefill_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_tables: Tensor,
    table_rows: Tensor | None,
    query_starts: Tensor,
    context_lens: Tensor,
    max_query_len: int,
    scale: float,
    sliding_window: int | None = None,
) -> Tensor:
    """Chunks of several sequences, one after the other: [num_tokens, num_heads, head_dim] in and out.

    Sequence i has the rows `query_starts[i]` to `query_starts[i + 1]` (int32, [num_seqs + 1]), at most `max_query_len`
    of them; they are the last tokens of its context.
    """
    tables = page_tables if table_rows is None else page_tables[table_rows]
    outs = []
    rows_of = torch.split(query, query_starts.diff().tolist())
    for page_table, rows, context_len in zip(tables, rows_of, context_lens.tolist(), strict=True):
        key = _gather(k_cache, page_table[None], context_len)[0]
        value = _gather(v_cache, page_table[None], context_len)[0]
        outs.append(_chunk_attention(rows, key, value, scale, sliding_window))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _gather(cache: Tensor, page_tables: Tensor, num_tokens: int) -> Tensor:
    """The first tokens of each sequence, [num_seqs, num_kv_heads, num_tokens, head_dim]."""
    num_seqs, num_pages = page_tables.shape
    num_pages = min(num_pages, -(-num_tokens // cache.shape[1]))
    pages = cache.index_select(0, page_tables[:, :num_pages].reshape(-1))
    return pages.view(num_seqs, -1, *cache.shape[2:])[:, :num_tokens].transpose(1, 2)


def _decode_mask(context_lens: Tensor, max_context_len: int, sliding_window: int | None) -> Tensor:
    places = torch.arange(max_context_len, device=context_lens.device)
    lens = context_lens[:, None, None, None]
    mask = places < lens
    if sliding_window is not None:
        mask &= places >= lens - sliding_window
    return mask


def _chunk_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, sliding_window: int | None) -> Tensor:
    """`query` [num_rows, num_heads, head_dim] are the last rows of `key` [num_kv_heads, context_len, head_dim]."""
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads, context_len, _ = key.shape
    shape = (num_kv_heads, num_heads // num_kv_heads, -1, head_dim)
    grouped = query.transpose(0, 1).view(*shape[:2], num_rows, head_dim)
    if num_rows == context_len and sliding_window is None:
        full_key, full_value = key[:, None].expand(shape), value[:, None].expand(shape)
        out = F.scaled_dot_product_attention(grouped, full_key, full_value, is_causal=True, scale=scale)
        return out.permute(2, 0, 1, 3).reshape(num_rows, num_heads, head_dim)
    outs = []
    for start in range(0, num_rows, _QUERY_BLOCK):
        block = grouped[:, :, start : start + _QUERY_BLOCK]
        first = context_len - num_rows + start
        last = first + block.shape[2]
        mask = _causal_mask(first, last, sliding_window, key.device)
        seen_key, seen_value = key[:, None, :last].expand(shape), value[:, None, :last].expand(shape)
        outs.append(F.scaled_dot_product_attention(block, seen_key, seen_value, attn_mask=mask, scale=scale))
    return torch.cat(outs, dim=2).permute(2, 0, 1, 3).reshape(num_rows, num_heads, head_dim)


def _causal_mask(first: int, last: int, sliding_window: int | None, device: torch.device) -> Tensor:
    """Which of the first `last` tokens the tokens at `first .. last - 1` see."""
    rows = torch.arange(first, last, device=device)[:, None]
    columns = torch.arange(last, device=device)
    mask = columns <= rows
    if sliding_window is not None:
        mask &= columns > rows - sliding_window
    return mask
