"""Kernels that change logits or read probabilities from them, against their twins."""

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops import sampling as sampling_twin
from gpu_worker.kernels.torch_ops import token_mask as mask_twin
from gpu_worker.kernels.triton_ops.logprobs import log_sum_exp, top_logprobs
from gpu_worker.kernels.triton_ops.token_mask import forbid_tokens_
from tests.unit.gpu_worker.kernels.conftest import DEVICE
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds

allow_computed_loop_bounds()

ON_GPU = DEVICE == "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if ON_GPU else [torch.float32, torch.float16]
SHAPES = [(1, 1), (3, 199), (2, 4099), *([(64, 151936)] if ON_GPU else [])]


def random_logits(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A slice of a wider tensor whose other columns must not be read."""
    wide = torch.full((shape[0], shape[1] + 8), torch.nan)
    wide[:, : shape[1]] = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4
    return wide.to(DEVICE, dtype)[:, : shape[1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forbidden_tokens_are_those_of_the_twin_and_nothing_else_is_touched(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    num_rows, vocab_size = shape
    words = torch.randint(-(2**31), 2**31, (num_rows, -(-vocab_size // 32)), dtype=torch.int64).int().to(DEVICE)
    wide = torch.full((num_rows, vocab_size + 8), 7.0, dtype=dtype, device=DEVICE)
    logits = wide[:, :vocab_size]
    logits.copy_(random_logits(shape, dtype))
    expected = logits.clone()
    mask_twin.forbid_tokens_(expected, words)
    forbid_tokens_(logits, words)
    assert torch.equal(logits, expected)
    assert bool((wide[:, vocab_size:] == 7.0).all())


def test_bits_are_counted_from_the_lowest() -> None:
    logits = torch.zeros((1, 40), device=DEVICE)
    mask_twin.forbid_tokens_(logits, torch.tensor([[0b101, 0b10]], dtype=torch.int32, device=DEVICE))
    assert logits.isfinite().nonzero()[:, 1].tolist() == [0, 2, 33]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_log_sum_exp_is_that_of_torch(shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits = random_logits(shape, dtype)
    assert torch.allclose(log_sum_exp(logits).double(), logits.double().logsumexp(dim=-1), atol=2e-6, rtol=1e-6)


def test_log_sum_exp_bears_masked_ids() -> None:
    logits = torch.full((1, 9000), -torch.inf, device=DEVICE)
    logits[0, 8999] = 2.5
    assert log_sum_exp(logits).tolist() == pytest.approx([2.5])


@pytest.mark.parametrize("dtype", DTYPES)
def test_logprobs_are_those_of_the_twin(dtype: torch.dtype) -> None:
    logits = random_logits((3, 4099), dtype)
    token_ids = torch.tensor([0, 4098, 17], device=DEVICE)
    chosen, top_ids, top_values = top_logprobs(logits, token_ids, 20)
    expected_chosen, _, expected_values = sampling_twin.top_logprobs(logits, token_ids, 20)
    assert torch.allclose(chosen, expected_chosen, atol=1e-5)
    assert torch.allclose(top_values, expected_values, atol=1e-5)
    assert torch.equal(logits.gather(1, top_ids).float(), logits.float().topk(20, dim=-1).values)
