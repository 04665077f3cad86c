"""Argmax and seeded draws on the device, against torch and the float64 noise."""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu_worker.kernels.torch_ops.philox import gumbel, philox_4x32
from gpu_worker.kernels.triton_ops.philox import gumbel_noise, philox_words
from gpu_worker.kernels.triton_ops.sampling import argmax, sample
from tests.unit.gpu_worker.kernels.conftest import DEVICE
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds
from tests.unit.gpu_worker.kernels.sampling_rows import Row, tables

allow_computed_loop_bounds()

ON_GPU = DEVICE == "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if ON_GPU else [torch.float32, torch.float16]
VOCAB_SIZES = [1, 199, 1003, 4096, 151936, 152064] if ON_GPU else [1, 199, 1003]
NUMS_ROWS = [1, 5, 64] if ON_GPU else [1, 5]


def random_logits(num_rows: int, vocab_size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """A slice of a wider tensor whose other columns would win."""
    generator = torch.Generator().manual_seed(seed + vocab_size)
    wide = torch.full((num_rows, vocab_size + 8), 1e4)
    wide[:, :vocab_size] = torch.randn(num_rows, vocab_size, generator=generator) * 4
    return wide.to(DEVICE, dtype)[:, :vocab_size]


def scores_of(logits: Tensor, rows: list[Row]) -> Tensor:
    """What a draw takes the highest of, in float64."""
    columns = torch.tensor([(row.seed, row.choice, row.output_index) for row in rows], device=logits.device)
    noise = gumbel(logits.shape[1], *columns.unbind(1))
    temperatures = torch.tensor([row.temperature for row in rows], dtype=torch.float64, device=logits.device)
    scores = logits.double() / temperatures.clamp(min=1e-9)[:, None] + noise
    return torch.where(temperatures[:, None] > 0, scores, logits.double())


@triton.jit
def _noise_kernel(counters, words_out, noise_out, output_index, choice, seed_low, seed_high, num_words: tl.constexpr):
    lanes = tl.arange(0, num_words)
    words = philox_words(
        tl.load(counters + lanes).to(tl.uint32),
        output_index.to(tl.uint32),
        choice.to(tl.uint32),
        seed_low.to(tl.uint32),
        seed_high.to(tl.uint32),
    )
    for i in tl.static_range(4):
        tl.store(words_out + i * num_words + lanes, words[i].to(tl.int64))
    tl.store(noise_out + lanes, gumbel_noise(tl.load(counters + lanes).to(tl.uint32)))


def test_words_are_those_of_the_twin_and_noise_is_accurate_at_both_ends() -> None:
    size = 4096
    high = torch.arange(1 << 32, (1 << 32) - 1024, -1) - 1
    middles = torch.cat([(at << 30) - 256 + torch.arange(512) for at in (torch.tensor(2), torch.tensor(3))])
    spread = torch.randint(0, 1 << 32, (1024,), generator=torch.Generator().manual_seed(0))
    counters = torch.cat([torch.arange(1024), high, middles, spread]).to(DEVICE)
    words = torch.full((4, size), -1, dtype=torch.int64, device=DEVICE)
    noise = torch.full((size,), torch.nan, dtype=torch.float32, device=DEVICE)
    scalars = (5, 3, 2**31 + 17, 2**32 - 1)
    _noise_kernel[(1,)](counters, words, noise, *scalars, size)
    output_index, choice, low, key_high = (torch.tensor(scalar, device=DEVICE) for scalar in scalars)
    expected = philox_4x32((counters, output_index, choice, torch.tensor(0, device=DEVICE)), (low, key_high))
    assert torch.equal(words, torch.stack(expected))

    exact = -(-((counters.double() + 0.5) * 2.0**-32).log()).log()
    # Beyond the word's upper half, 1 - u is exact where u is not.
    rest = ((2.0**32 - 1 - counters.double()) + 0.5) * 2.0**-32
    exact = torch.where(rest < 0.5, -(-torch.log1p(-rest)).log(), exact)
    error = (noise.double() - exact).abs()
    assert bool((error <= 1e-6 + 3e-7 * exact.abs()).all()), error.max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("num_rows", NUMS_ROWS)
def test_argmax_is_that_of_torch(num_rows: int, vocab_size: int, dtype: torch.dtype) -> None:
    logits = random_logits(num_rows, vocab_size, dtype)
    assert torch.equal(argmax(logits), logits.float().argmax(dim=-1))


def test_argmax_takes_the_lowest_of_equals_and_always_gives_an_id() -> None:
    logits = torch.zeros((4, 3001), device=DEVICE)
    logits[0, [2999, 1500, 1499]] = 5.0
    logits[1] = -torch.inf
    logits[2] = torch.nan
    assert argmax(logits)[[0, 1, 3]].tolist() == [1499, 0, 0]
    assert 0 <= int(argmax(logits)[2]) < 3001


def test_a_result_can_be_put_somewhere() -> None:
    out = torch.full((2,), -1, dtype=torch.int64, device=DEVICE)
    logits = random_logits(2, 199)
    assert argmax(logits, out) is out
    assert torch.equal(out, logits.argmax(dim=-1))


ROWS = [
    Row(),
    Row(1.0, seed=1),
    Row(0.3, seed=-7, choice=3, output_index=70_000),
    Row(),
    Row(2.5, seed=2**63 - 1, output_index=1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("num_copies", [1, 13] if ON_GPU else [1])
def test_draws_are_those_of_the_exact_noise(num_copies: int, vocab_size: int, dtype: torch.dtype) -> None:
    rows = ROWS * num_copies
    logits = random_logits(len(rows), vocab_size, dtype)
    where = tables(rows, DEVICE)
    found = sample(logits, where.parameters, where.rows, where.output_indexes)
    scores = scores_of(logits, rows)
    best = scores.max(dim=-1).values
    assert bool((scores.gather(1, found[:, None]).squeeze(1) >= best - 1e-4).all())
    assert (found != scores.argmax(dim=-1)).sum() <= len(rows) // 50


def test_a_draw_does_not_depend_on_the_batch() -> None:
    logits = random_logits(5, 1003)
    where = tables(ROWS, DEVICE)
    together = sample(logits, where.parameters, where.rows, where.output_indexes)
    for i in range(5):
        alone = sample(logits[i : i + 1], where.parameters, where.rows[i : i + 1], where.output_indexes[i : i + 1])
        assert int(alone) == int(together[i])


def test_a_row_without_finite_logits_gives_an_id() -> None:
    rows = [Row(1.0), Row(1.0)]
    where = tables(rows, DEVICE)
    logits = torch.full((2, 199), -torch.inf, device=DEVICE)
    logits[1] = torch.nan
    found = sample(logits, where.parameters, where.rows, where.output_indexes).tolist()
    assert all(0 <= token_id < 199 for token_id in found)
