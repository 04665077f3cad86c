"""The best id of each row of logits, with or without Gumbel noise. Rows without noise and with it may mix.

Two launches: the vocabulary is split among programs, so that one row fills the card, and then the best of each split
are compared. Equal scores go to the lowest id, so the split changes nothing.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels import sampling_row
from gpu_worker.kernels.triton_ops.launch import is_dependent, wait_for_kernel_before
from gpu_worker.kernels.triton_ops.philox import gumbel_noise, philox_words

_NUM_WORDS = tl.constexpr(sampling_row.NUM_WORDS)
_INVERSE_TEMPERATURE = tl.constexpr(sampling_row.INVERSE_TEMPERATURE)
_SEED_LOW = tl.constexpr(sampling_row.SEED_LOW)
_SEED_HIGH = tl.constexpr(sampling_row.SEED_HIGH)
_CHOICE = tl.constexpr(sampling_row.CHOICE)
_IS_FILTERED = tl.constexpr(sampling_row.IS_FILTERED)
_NO_ID = tl.constexpr(2**31 - 1)


@dataclass(frozen=True, slots=True)
class Launch:
    """Ids that a program looks at at once, its warps, and about how many programs there are: 8 for each of 132 SMs."""

    block: int
    num_warps: int
    max_programs: int = 1056

    def split(self, num_rows: int, vocab_size: int) -> tuple[int, int]:
        """Ids per program, a multiple of `block`, and programs per row."""
        num_blocks = triton.cdiv(vocab_size, self.block)
        ids_per_program = max(1, num_rows * num_blocks // self.max_programs) * self.block
        return ids_per_program, triton.cdiv(vocab_size, ids_per_program)


def argmax(logits: Tensor, out: Tensor | None = None, *, launch: Launch | None = None) -> Tensor:
    """The most likely id of each row of [num_rows, vocab_size], as int64 [num_rows]; the lowest among equals."""
    num_rows, vocab_size = logits.shape
    launch = launch or argmax_launch(num_rows)
    ids_per_program, num_splits = launch.split(num_rows, vocab_size)
    scores, ids = _split_best(logits, num_splits)
    dependent = is_dependent(logits)
    _argmax_kernel[(num_splits, num_rows)](
        logits,
        logits.stride(0),
        scores,
        ids,
        vocab_size,
        ids_per_program,
        launch.block,
        dependent,
        num_warps=launch.num_warps,
        launch_pdl=dependent,
    )
    return _best_of_splits(scores, ids, out)


def sample(
    logits: Tensor,
    parameters: Tensor,
    rows: Tensor,
    output_indexes: Tensor,
    *,
    skips_filtered: bool = False,
    out: Tensor | None = None,
    launch: Launch | None = None,
) -> Tensor:
    """One id for each row of [num_rows, vocab_size] as int64 [num_rows], drawn with the parameters of its table row.

    `parameters` is [max_rows, NUM_WORDS] int32 (see `sampling_row`); `rows` and `output_indexes` are int32
    [num_rows]. Filters are not applied. With `skips_filtered`, what rows with filters get is undefined.
    """
    num_rows, vocab_size = logits.shape
    launch = launch or sample_launch(num_rows)
    ids_per_program, num_splits = launch.split(num_rows, vocab_size)
    scores, ids = _split_best(logits, num_splits)
    dependent = is_dependent(logits)
    _sample_kernel[(num_splits, num_rows)](
        logits,
        logits.stride(0),
        parameters,
        rows,
        output_indexes,
        scores,
        ids,
        vocab_size,
        ids_per_program,
        skips_filtered,
        launch.block // 4,
        dependent,
        num_warps=launch.num_warps,
        launch_pdl=dependent,
    )
    return _best_of_splits(scores, ids, out)


def argmax_launch(num_rows: int) -> Launch:
    """A few rows are cut small, so that there is a block for every SM."""
    return Launch(1024, 4) if num_rows <= 4 else Launch(4096, 4)


def sample_launch(num_rows: int) -> Launch:
    """The same with noise, which takes more registers and more arithmetic per id."""
    return Launch(1024, 4) if num_rows <= 4 else Launch(2048, 4)


def _split_best(logits: Tensor, num_splits: int) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], num_splits)
    scores = torch.empty(shape, dtype=torch.float32, device=logits.device)
    return scores, torch.empty(shape, dtype=torch.int32, device=logits.device)


def _best_of_splits(scores: Tensor, ids: Tensor, out: Tensor | None) -> Tensor:
    num_rows, num_splits = scores.shape
    if out is None:
        out = torch.empty(num_rows, dtype=torch.int64, device=scores.device)
    # Nearly always the same, so that the number of rows does not decide about what is to be compiled.
    max_splits = max(256, triton.next_power_of_2(num_splits))
    dependent = is_dependent(scores)
    _best_of_splits_kernel[(num_rows,)](
        scores, ids, out, num_splits, max_splits, dependent, num_warps=1, launch_pdl=dependent
    )
    return out


@triton.jit
def _argmax_kernel(
    logits,
    stride,
    best_scores,
    best_ids,
    vocab_size,
    ids_per_program,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    split_index, place = tl.program_id(0), tl.program_id(1)
    logits += place.to(tl.int64) * stride
    first = split_index * ids_per_program
    lanes = tl.arange(0, BLOCK)
    scores = tl.full([BLOCK], float("-inf"), tl.float32)
    ids = first + lanes
    for start in range(first, tl.minimum(first + ids_per_program, vocab_size), BLOCK):
        token_ids = start + lanes
        x = tl.load(logits + token_ids, mask=token_ids < vocab_size, other=float("-inf")).to(tl.float32)
        is_better = x > scores
        scores = tl.where(is_better, x, scores)
        ids = tl.where(is_better, token_ids, ids)
    _store_best(scores, ids, best_scores, best_ids, place * tl.num_programs(0) + split_index)


@triton.jit
def _sample_kernel(
    logits,
    stride,
    parameters,
    rows,
    output_indexes,
    best_scores,
    best_ids,
    vocab_size,
    ids_per_program,
    SKIPS_FILTERED: tl.constexpr,
    NUM_COUNTERS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_kernel_before(DEPENDENT)
    split_index, place = tl.program_id(0), tl.program_id(1)
    parameters += tl.load(rows + place).to(tl.int64) * _NUM_WORDS
    is_wanted = tl.load(parameters + _IS_FILTERED) == 0 if SKIPS_FILTERED else True
    if is_wanted:
        logits += place.to(tl.int64) * stride
        inverse_temperature = load_float(parameters + _INVERSE_TEMPERATURE)
        output_index, choice, seed_low, seed_high = load_randomness(parameters, output_indexes + place)
        first = split_index * ids_per_program
        lanes = quad_lanes(NUM_COUNTERS)
        scores = tl.full([NUM_COUNTERS, 4], float("-inf"), tl.float32)
        ids = first + lanes
        for start in range(first, tl.minimum(first + ids_per_program, vocab_size), NUM_COUNTERS * 4):
            token_ids = start + lanes
            x = tl.load(logits + token_ids, mask=token_ids < vocab_size, other=float("-inf")).to(tl.float32)
            if inverse_temperature > 0:
                x *= inverse_temperature
                x += quad_noise(start, output_index, choice, seed_low, seed_high, NUM_COUNTERS)
            is_better = x > scores
            scores = tl.where(is_better, x, scores)
            ids = tl.where(is_better, token_ids, ids)
        scores = tl.reshape(scores, [NUM_COUNTERS * 4])
        ids = tl.reshape(ids, [NUM_COUNTERS * 4])
        _store_best(scores, ids, best_scores, best_ids, place * tl.num_programs(0) + split_index)


@triton.jit(do_not_specialize=["num_splits"])
def _best_of_splits_kernel(scores, ids, out, num_splits, SPLITS: tl.constexpr, DEPENDENT: tl.constexpr):
    wait_for_kernel_before(DEPENDENT)
    place = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    mask = splits < num_splits
    x = tl.load(scores + place * num_splits + splits, mask=mask, other=float("-inf"))
    # Not a number may get here from a broken model: the result is still an id.
    token_ids = tl.load(ids + place * num_splits + splits, mask=mask, other=_NO_ID)
    _, token_id = best_of(x, token_ids)
    tl.store(out + place, token_id.to(tl.int64))


@triton.jit
def best_of(scores, ids):
    """The best score and its id, the lowest among equals."""
    best = tl.max(scores, 0)
    return best, tl.min(tl.where(scores == best, ids, _NO_ID), 0)


@triton.jit
def _store_best(scores, ids, best_scores, best_ids, place):
    best, token_id = best_of(scores, ids)
    tl.store(best_scores + place, best)
    tl.store(best_ids + place, token_id)


@triton.jit
def load_float(word):
    """A float of a row of parameters."""
    return tl.load(word).to(tl.float32, bitcast=True)


@triton.jit
def load_randomness(parameters, output_index):
    """What the noise of a row depends on, as uint32: output index, choice, low and high half of the seed."""
    return (
        tl.load(output_index).to(tl.uint32, bitcast=True),
        tl.load(parameters + _CHOICE).to(tl.uint32, bitcast=True),
        tl.load(parameters + _SEED_LOW).to(tl.uint32, bitcast=True),
        tl.load(parameters + _SEED_HIGH).to(tl.uint32, bitcast=True),
    )


@triton.jit
def quad_lanes(NUM_COUNTERS: tl.constexpr):
    """0 to 4 * NUM_COUNTERS - 1 as [NUM_COUNTERS, 4], so that the four words of a counter are a row."""
    return tl.arange(0, NUM_COUNTERS)[:, None] * 4 + tl.arange(0, 4)[None, :]


@triton.jit
def quad_noise(start, output_index, choice, seed_low, seed_high, NUM_COUNTERS: tl.constexpr):
    """Gumbel noise of the ids start + quad_lanes, for a `start` that is a multiple of 4."""
    counters = (start // 4 + tl.arange(0, NUM_COUNTERS)).to(tl.uint32)
    w0, w1, w2, w3 = philox_words(counters, output_index, choice, seed_low, seed_high)
    # The last axis of a join is the new one, so pairs are crossed to come out in order.
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return gumbel_noise(tl.reshape(words, [NUM_COUNTERS, 4]))
