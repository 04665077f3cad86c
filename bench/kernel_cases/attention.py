"""Attention and rotation of Qwen2.5-0.5B and -7B in bfloat16."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from bench.kernel_cases.case import KernelCase
from bench.kernel_cases.sequences import DTYPE, PAGE_SIZE, Heads, Sequences
from gpu_worker.kernels.torch_ops import rope as torch_rope
from gpu_worker.kernels.triton_ops.attention import (
    DecodePlan,
    make_decode_plan,
    paged_decode_attention,
    paged_prefill_attention,
    plan_decode_,
    rope_decode_attention,
)
from gpu_worker.kernels.triton_ops.decode_attention import DecodeBlocks, decode_blocks
from gpu_worker.kernels.triton_ops.prefill_attention import PrefillBlocks, prefill_blocks
from gpu_worker.kernels.triton_ops.rope import rope_write_kv

_CACHE_BYTES = 160e6  # several times what the L2 of any GPU holds
_MAX_SETS = 400

HEADS = [Heads("0.5B", 14, 2, 64), Heads("7B", 28, 4, 128)]

DECODES = [
    ("b1 ctx384", [384]),
    ("b1 ctx4096", [4096]),
    ("b1 ctx32768", [32768]),
    ("b8 ctx256-512", [256 + 36 * i for i in range(8)]),
    ("b64 ctx256-512", [256 + 4 * i for i in range(64)]),
    ("b256 ctx129-256", [129 + i // 2 for i in range(256)]),
    ("b256 ctx256-512", [256 + i for i in range(256)]),
    ("b64 one 32768", [32768, *(256 + 4 * i for i in range(63))]),
]
PREFILLS = [("2048", [2048]), ("64x128", [128] * 64), ("256x128", [128] * 256), ("8192", [8192])]


def cases(device: torch.device) -> Iterator[KernelCase]:
    """Ours against torch's attention over contiguous keys and values of equal lengths."""
    for heads in HEADS:
        for name, lens in DECODES:
            inputs = _decodes(heads, lens, device)
            yield _decode_case(f"decode attention {heads.name} {name}", inputs)
            yield _fused_case(f"rope+decode attention {heads.name} {name}", inputs)
            del inputs
        for name, lens in PREFILLS:
            yield _prefill_case(f"prefill attention {heads.name} {name}", _prefills(heads, lens, device))
        for num_tokens in (1, 64, 256, 8192):
            yield _rope_case(heads, num_tokens, device)
    for num_seqs in (1, 256):
        yield _plan_case(num_seqs, device)


def sweep(device: torch.device) -> Iterator[KernelCase]:
    """Every configuration that seems worth it; a star marks the one that is chosen now."""
    for heads in HEADS:
        for name, lens in DECODES:
            yield from _decode_sweep(f"rope+decode attention {heads.name} {name}", _decodes(heads, lens, device))
        for name, lens in PREFILLS[:3]:
            yield from _prefill_sweep(f"prefill attention {heads.name} {name}", _prefills(heads, lens, device))


# Tokens, stages, warps, items combined at a time.
_DECODE_CUTS = [
    (32, 4, 4, 2),
    (32, 4, 2, 2),
    (32, 4, 1, 2),
    (64, 2, 4, 2),
    (64, 3, 2, 2),
    (64, 3, 4, 2),
    (64, 3, 4, 8),
    (64, 4, 4, 2),
    (128, 2, 4, 2),
    (128, 3, 4, 2),
    (128, 3, 4, 8),
    (128, 3, 8, 8),
]


def _decode_sweep(name: str, inputs: Sequences) -> Iterator[KernelCase]:
    chosen = decode_blocks(DTYPE, len(inputs.lens), inputs.heads.head_dim)
    candidates = {chosen, replace(chosen, combines_in_place=not chosen.combines_in_place)}
    candidates |= {DecodeBlocks(*cut) for cut in _DECODE_CUTS}
    for blocks in sorted(candidates, key=str):
        combined = f"c{blocks.combined_items}" if blocks.combines_in_place else "-apart"
        cut = f"t{blocks.tokens}s{blocks.num_stages}w{blocks.num_warps}{combined}"
        star = "*" if blocks == chosen else ""
        yield _fused_case(f"{name} {cut}{star}", inputs, blocks)
    for programs, tokens in ((1, 128), (1, 512), (2, 64), (2, 256), (2, 512), (4, 64), (4, 128), (4, 256)):
        yield _fused_case(f"{name} items{programs}x{tokens}", inputs, chosen, (programs, tokens))


# Rows, tokens, stages, warps. What spills at the larger head size is left out.
_PREFILL_CUTS = [
    (64, 32, 2, 4),
    (64, 32, 3, 4),
    (64, 64, 2, 4),
    (64, 64, 3, 4),
    (64, 128, 2, 4),
    (128, 32, 3, 8),
    (128, 64, 2, 8),
    (128, 64, 3, 8),
    (128, 128, 2, 8),
]
_SMALL_HEAD_PREFILL_CUTS = [(128, 32, 3, 4), (128, 64, 2, 4), (128, 64, 3, 4), (128, 128, 3, 8)]


def _prefill_sweep(name: str, inputs: Sequences) -> Iterator[KernelCase]:
    chosen = prefill_blocks(inputs.heads.head_dim, DTYPE, max(inputs.lens))
    cuts = _PREFILL_CUTS + (_SMALL_HEAD_PREFILL_CUTS if inputs.heads.head_dim <= 64 else [(128, 64, 4, 8)])
    for blocks in sorted({chosen, *(PrefillBlocks(*cut) for cut in cuts)}, key=str):
        cut = f"r{blocks.rows}t{blocks.tokens}s{blocks.num_stages}w{blocks.num_warps}"
        star = "*" if blocks == chosen else ""
        yield _prefill_case(f"{name} {cut}{star}", inputs, blocks)


def _decodes(heads: Heads, lens: list[int], device: torch.device) -> Sequences:
    set_bytes = sum(lens) * heads.bytes_per_token
    return Sequences(heads, lens, len(lens), min(max(2, round(_CACHE_BYTES / set_bytes)), _MAX_SETS), device)


def _prefills(heads: Heads, lens: list[int], device: torch.device) -> Sequences:
    return Sequences(heads, lens, sum(lens), 2, device)


def _plan(inputs: Sequences, split: tuple[int, int] | None = None) -> DecodePlan:
    """With `split`: programs per processor, and tokens of an item at least."""
    heads = inputs.heads
    shape = (len(inputs.lens), heads.num_heads, heads.num_kv_heads, heads.head_dim)
    options = {} if split is None else {"programs_per_processor": split[0], "min_item_tokens": split[1]}
    plan = make_decode_plan(*shape, inputs.query.device, **options)
    plan_decode_(plan, inputs.context_lens)
    return plan


def _decode_case(name: str, inputs: Sequences) -> KernelCase:
    heads, num_seqs, plan = inputs.heads, len(inputs.lens), _plan(inputs)

    def run(i: int) -> Tensor:
        return paged_decode_attention(
            inputs.query[i],
            inputs.k_cache,
            inputs.v_cache,
            inputs.page_tables[i],
            None,
            inputs.context_lens,
            plan,
            heads.scale,
        )

    def peer(i: int) -> Tensor:
        key, value = inputs.contiguous(i)
        # The query heads of a group take the place of query tokens.
        grouped = inputs.query[i].view(num_seqs, heads.num_kv_heads, -1, heads.head_dim)
        return F.scaled_dot_product_attention(grouped, key, value)

    return KernelCase(
        name,
        run,
        inputs.num_sets,
        inputs.num_bytes,
        4 * sum(inputs.lens) * heads.num_heads * heads.head_dim,
        *_peer(peer, max(inputs.lens) <= 2 * min(inputs.lens)),
    )


def _fused_case(
    name: str, inputs: Sequences, blocks: DecodeBlocks | None = None, split: tuple[int, int] | None = None
) -> KernelCase:
    """Rotation and cache write beside the attention; the peer are the two kernels that do it one after the other."""
    heads, num_seqs, plan = inputs.heads, len(inputs.lens), _plan(inputs, split)
    device = inputs.query.device
    width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
    qkv = torch.empty(inputs.num_sets, num_seqs, width, dtype=DTYPE, device=device).normal_()
    tables = torch.randn(2, max(inputs.lens), heads.head_dim, device=device).unbind()
    last = inputs.context_lens - 1
    pages = inputs.page_tables.gather(2, (last // PAGE_SIZE).long().expand(inputs.num_sets, -1)[..., None])[..., 0]
    slots = (pages * PAGE_SIZE + last % PAGE_SIZE).int()
    caches = (inputs.k_cache, inputs.v_cache)

    def run(i: int) -> Tensor:
        new_token = (qkv[i], *tables, None, None, 1e-6, *caches, slots[i])
        rest = (inputs.page_tables[i], None, inputs.context_lens, plan, heads.scale, None, blocks)
        return rope_decode_attention(*new_token, *rest)

    def apart(i: int) -> Tensor:
        query = rope_write_kv(qkv[i], *tables, last, None, None, 1e-6, *caches, slots[i])
        rest = (inputs.page_tables[i], None, inputs.context_lens, plan, heads.scale)
        return paged_decode_attention(query, *caches, *rest)

    is_chosen = blocks is None
    return KernelCase(
        name,
        run,
        inputs.num_sets,
        inputs.num_bytes,
        4 * sum(inputs.lens) * heads.num_heads * heads.head_dim,
        apart if is_chosen else None,
        "rope, then attention" if is_chosen else "",
    )


def _prefill_case(name: str, inputs: Sequences, blocks: PrefillBlocks | None = None) -> KernelCase:
    heads, lens = inputs.heads, inputs.lens
    starts = torch.tensor([0, *lens], device=inputs.query.device).cumsum(0).int()

    def run(i: int) -> Tensor:
        return paged_prefill_attention(
            inputs.query[i],
            inputs.k_cache,
            inputs.v_cache,
            inputs.page_tables[i],
            None,
            starts,
            inputs.context_lens,
            max(lens),
            heads.scale,
            None,
            blocks,
        )

    def peer(i: int) -> Tensor:
        key, value = inputs.contiguous(i)
        query = inputs.query[i].view(len(lens), lens[0], heads.num_heads, heads.head_dim).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    num_flops = sum(2 * length * (length + 1) for length in lens) * heads.num_heads * heads.head_dim
    return KernelCase(name, run, inputs.num_sets, inputs.num_bytes, num_flops, *_peer(peer, blocks is None))


def _peer(peer: Callable[[int], object], is_wanted: bool) -> tuple[Callable[[int], object] | None, str]:
    return (peer, "torch SDPA, contiguous") if is_wanted else (None, "")


def _rope_case(heads: Heads, num_tokens: int, device: torch.device) -> KernelCase:
    width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
    num_bytes = 2 * num_tokens * width * DTYPE.itemsize
    num_sets = min(max(2, round(_CACHE_BYTES / num_bytes)), _MAX_SETS)
    num_pages = max(4 * num_tokens // PAGE_SIZE, 1000)
    qkv = torch.empty(num_sets, num_tokens, width, dtype=DTYPE, device=device).normal_()
    k_cache = torch.zeros(num_pages, PAGE_SIZE, heads.num_kv_heads, heads.head_dim, dtype=DTYPE, device=device)
    tables = torch.randn(2, 32768, heads.head_dim, device=device).unbind()
    positions = torch.randint(8192, (num_tokens,), device=device)
    slots = torch.randperm(num_pages * PAGE_SIZE, device=device)[:num_tokens]
    rest = (*tables, positions, None, None, 1e-6, k_cache, torch.zeros_like(k_cache), slots)
    return KernelCase(
        f"rope {heads.name} tokens{num_tokens}",
        lambda i: rope_write_kv(qkv[i], *rest),
        num_sets,
        num_bytes,
        0,
        lambda i: torch_rope.rope_write_kv(qkv[i], *rest),
        "torch, several launches",
    )


def _plan_case(num_seqs: int, device: torch.device) -> KernelCase:
    lens = torch.arange(256, 256 + num_seqs, dtype=torch.int32, device=device)
    plan = make_decode_plan(num_seqs, 28, 4, 128, device)
    return KernelCase(f"decode plan b{num_seqs}", lambda _: plan_decode_(plan, lens), 1)
