"""What changes logits before a token is chosen: penalties by counted tokens, bias, ids that must not come yet.

Tokens are counted where they are sampled, so that the next step needs nothing from the host.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels import sampling_row
from gpu_worker.kernels.triton_ops.sampling import load_float

_NUM_WORDS = tl.constexpr(sampling_row.NUM_WORDS)
_HAS_PENALTIES = tl.constexpr(sampling_row.HAS_PENALTIES)
_REPETITION = tl.constexpr(sampling_row.REPETITION)
_FREQUENCY = tl.constexpr(sampling_row.FREQUENCY)
_PRESENCE = tl.constexpr(sampling_row.PRESENCE)
# A count is an int16: how often the output has the id (up to 32767), and as sign bit whether the prompt has it.
_MAX_COUNT = tl.constexpr(0x7FFF)
_BLOCK = 2048


def penalised(logits: Tensor, parameters: Tensor, rows: Tensor, counts: Tensor | None) -> Tensor:
    """A float32 copy of [num_rows, vocab_size], with the penalties of the rows that have any.

    `parameters` and `rows` are as for `sampling.sample`. `counts` is [max_rows, vocab_size] int16: occurrences in the
    output, plus the sign bit (-32768) if the prompt has the id; without it nothing is penalised. For the penalties
    themselves see `torch_ops.sampling.penalise_`.
    """
    num_rows, vocab_size = logits.shape
    out = torch.empty((num_rows, vocab_size), dtype=torch.float32, device=logits.device)
    _penalise_kernel[(triton.cdiv(vocab_size, _BLOCK), num_rows)](
        logits,
        logits.stride(0),
        parameters,
        rows,
        parameters if counts is None else counts,
        out,
        vocab_size,
        counts is not None,
        _BLOCK,
        num_warps=8,
    )
    return out


def edit_logits_(logits: Tensor, edits: Tensor, rows: Tensor, output_indexes: Tensor) -> None:
    """Change single logits of [num_rows, vocab_size] float32 in place.

    `edits` is [max_rows, 3, max_edits] int32: distinct ids (-1 is none), the bits of the float32 biases to add, and
    the output indexes before which the ids must not come, so that they get -inf.
    """
    max_edits = edits.shape[2]
    block = min(1024, triton.next_power_of_2(max_edits))
    _edit_kernel[(logits.shape[0],)](
        logits, logits.stride(0), edits, rows, output_indexes, logits.shape[1], max_edits, block
    )


def count_tokens_(counts: Tensor, parameters: Tensor, rows: Tensor, token_ids: Tensor) -> None:
    """Count int64 `token_ids` [num_rows] in the rows that have penalties; every such row may be named once."""
    _count_kernel[(len(token_ids),)](counts, parameters, rows, token_ids, counts.shape[1], num_warps=1)


@triton.jit
def _penalise_kernel(
    logits,
    stride,
    parameters,
    rows,
    counts,
    out,
    vocab_size,
    HAS_COUNTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(1)
    row = tl.load(rows + place).to(tl.int64)
    token_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = token_ids < vocab_size
    x = tl.load(logits + place.to(tl.int64) * stride + token_ids, mask=mask).to(tl.float32)
    if HAS_COUNTS:
        parameters += row * _NUM_WORDS
        if tl.load(parameters + _HAS_PENALTIES) != 0:
            repetition = load_float(parameters + _REPETITION)
            frequency, presence = load_float(parameters + _FREQUENCY), load_float(parameters + _PRESENCE)
            seen = tl.load(counts + row * vocab_size + token_ids, mask=mask, other=0).to(tl.int32)
            x = tl.where(seen != 0, tl.where(x > 0, tl.div_rn(x, repetition), x * repetition), x)
            count = seen & _MAX_COUNT
            x = tl.where(count > 0, x - (frequency * count.to(tl.float32) + presence), x)
    tl.store(out + place.to(tl.int64) * vocab_size + token_ids, x, mask=mask)


@triton.jit
def _edit_kernel(logits, stride, edits, rows, output_indexes, vocab_size, max_edits, BLOCK: tl.constexpr):
    place = tl.program_id(0)
    output_index = tl.load(output_indexes + place)
    logits += place.to(tl.int64) * stride
    edits += tl.load(rows + place).to(tl.int64) * (3 * max_edits)
    for start in range(0, max_edits, BLOCK):
        lanes = start + tl.arange(0, BLOCK)
        token_ids = tl.load(edits + lanes, mask=lanes < max_edits, other=-1)
        mask = (token_ids >= 0) & (token_ids < vocab_size)
        bias = tl.load(edits + max_edits + lanes, mask=mask, other=0).to(tl.float32, bitcast=True)
        first_allowed = tl.load(edits + 2 * max_edits + lanes, mask=mask, other=0)
        x = tl.load(logits + token_ids, mask=mask, other=0.0) + bias
        tl.store(logits + token_ids, tl.where(output_index < first_allowed, float("-inf"), x), mask=mask)


@triton.jit
def _count_kernel(counts, parameters, rows, token_ids, vocab_size):
    place = tl.program_id(0)
    row = tl.load(rows + place).to(tl.int64)
    if tl.load(parameters + row * _NUM_WORDS + _HAS_PENALTIES) != 0:
        counts += row * vocab_size + tl.load(token_ids + place)
        seen = tl.load(counts).to(tl.int32)
        tl.store(counts, tl.where((seen & _MAX_COUNT) < _MAX_COUNT, seen + 1, seen).to(tl.int16))
