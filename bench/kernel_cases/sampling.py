"""Choosing ids from the logits of Qwen2.5's vocabulary: greedy, with noise, and with filters.

Filtered rows come in two kinds: peaked ones, where a handful of ids has 0.9 of the probability as in most answers, and
flat ones, where it takes tens of thousands, so that the list of candidates has no room for them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bench.kernel_cases.case import KernelCase
from gpu_worker.kernels import sampling_row
from gpu_worker.kernels.triton_ops.filtered_sampling import filtered_sample_
from gpu_worker.kernels.triton_ops.logit_edits import penalised
from gpu_worker.kernels.triton_ops.logprobs import log_sum_exp
from gpu_worker.kernels.triton_ops.sampling import Launch, argmax, sample

VOCAB_SIZE = 151936
NUMS_ROWS = (1, 16, 64, 256)
PEAKED, FLAT = 2.0, 0.9


def cases(device: torch.device) -> Iterator[KernelCase]:
    """Each with torch's way beside it."""
    for num_rows in NUMS_ROWS:
        yield from _unfiltered(device, num_rows)
        for steepness, kind in ((PEAKED, "peaked"), (FLAT, "flat")):
            yield from _filtered(device, num_rows, steepness, kind)


def sweep(device: torch.device) -> Iterator[KernelCase]:
    """Blocks, warps and programs of the two kernels that every step runs."""
    for num_rows in NUMS_ROWS:
        sets = _logits(device, num_rows, PEAKED)
        parameters, rows, indexes = _tables(device, num_rows)
        for block, num_warps, max_programs in (
            (1024, 4, 1056),
            (2048, 4, 1056),
            (2048, 8, 1056),
            (4096, 4, 1056),
            (4096, 8, 1056),
            (8192, 8, 1056),
            (2048, 4, 528),
            (2048, 4, 2112),
            (4096, 4, 2112),
            (4096, 8, 528),
        ):
            launch = Launch(block, num_warps, max_programs)

            def greedy(i: int, sets: list[Tensor] = sets, launch: Launch = launch) -> Tensor:
                return argmax(sets[i], launch=launch)

            def noisy(
                i: int,
                sets: list[Tensor] = sets,
                launch: Launch = launch,
                randomness: tuple[Tensor, Tensor, Tensor] = (parameters, rows, indexes),
            ) -> Tensor:
                return sample(sets[i], *randomness, launch=launch)

            name = f"b{num_rows} block {block} warps {num_warps} programs {max_programs}"
            yield KernelCase(f"greedy {name}", greedy, len(sets), sets[0].nbytes)
            yield KernelCase(f"sample {name}", noisy, len(sets), sets[0].nbytes)


def _unfiltered(device: torch.device, num_rows: int) -> Iterator[KernelCase]:
    sets = _logits(device, num_rows, PEAKED)
    randomness = _tables(device, num_rows)
    num_bytes = sets[0].nbytes
    yield KernelCase(
        f"greedy b{num_rows}",
        lambda i: argmax(sets[i]),
        len(sets),
        num_bytes,
        peer=lambda i: sets[i].argmax(dim=-1),
        peer_name="argmax",
    )
    yield KernelCase(
        f"sample b{num_rows}",
        lambda i: sample(sets[i], *randomness),
        len(sets),
        num_bytes,
        peer=lambda i: torch.multinomial(sets[i].float().softmax(dim=-1), 1),
        peer_name="softmax, multinomial",
    )
    yield KernelCase(
        f"penalties b{num_rows}",
        lambda i: penalised(sets[i], *randomness[:2], None),
        len(sets),
        3 * num_bytes,
        peer=lambda i: sets[i].float(),
        peer_name="copy to float32",
    )
    yield KernelCase(
        f"log-sum-exp b{num_rows}",
        lambda i: log_sum_exp(sets[i]),
        len(sets),
        num_bytes,
        peer=lambda i: sets[i].float().logsumexp(dim=-1),
        peer_name="logsumexp",
    )


def _filtered(device: torch.device, num_rows: int, steepness: float, kind: str) -> Iterator[KernelCase]:
    sets = _logits(device, num_rows, steepness)
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=device)
    for name, top_k, top_p in (("top-k 50", 50, 1.0), ("top-p 0.9", VOCAB_SIZE, 0.9), ("both", 50, 0.9)):
        if kind == "flat" and top_k < VOCAB_SIZE:
            continue
        randomness = _tables(device, num_rows, top_k, top_p)

        def run(i: int, randomness: tuple[Tensor, Tensor, Tensor] = randomness) -> None:
            filtered_sample_(token_ids, sets[i], *randomness)

        def by_sorting(i: int, top_k: int = top_k, top_p: float = top_p) -> Tensor:
            return _by_sorting(sets[i], top_k, top_p)

        yield KernelCase(
            f"{name} {kind} b{num_rows}",
            run,
            len(sets),
            sets[0].nbytes,
            peer=by_sorting,
            peer_name="sort, cumsum, multinomial",
        )


def _by_sorting(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    values, token_ids = logits.float().sort(dim=-1, descending=True)
    values[:, top_k:] = -torch.inf
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities.masked_fill_(before >= top_p, 0.0)
    return token_ids.gather(1, torch.multinomial(probabilities, 1))


def _logits(device: torch.device, num_rows: int, steepness: float) -> list[Tensor]:
    """Sets of rows whose probabilities fall with a power of the rank, in random order."""
    values = -steepness * torch.arange(1, VOCAB_SIZE + 1, device=device).log()
    num_sets = max(2, min(8, 300_000_000 // (2 * num_rows * VOCAB_SIZE)))
    return [
        torch.stack([values[torch.randperm(VOCAB_SIZE, device=device)] for _ in range(num_rows)]).bfloat16()
        for _ in range(num_sets)
    ]


def _tables(
    device: torch.device, num_rows: int, top_k: int = VOCAB_SIZE, top_p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    words = np.zeros((num_rows, sampling_row.NUM_WORDS), dtype=np.int32)
    floats = words.view(np.float32)
    floats[:, sampling_row.INVERSE_TEMPERATURE] = 1.0
    words[:, sampling_row.SEED_LOW] = np.arange(num_rows)
    words[:, sampling_row.IS_FILTERED] = top_k < VOCAB_SIZE or top_p < 1.0
    words[:, sampling_row.TOP_K] = top_k
    floats[:, sampling_row.TOP_P] = top_p
    rows = torch.arange(num_rows, dtype=torch.int32, device=device)
    return torch.from_numpy(words).to(device), rows, torch.full_like(rows, 7)
