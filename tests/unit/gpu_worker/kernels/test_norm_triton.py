"""Normalisation and activation in Triton against plain torch in float64."""

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops import activation as torch_activation
from gpu_worker.kernels.torch_ops import norm as torch_norm
from gpu_worker.kernels.triton_ops.activation import silu_mul
from gpu_worker.kernels.triton_ops.norm import rms_norm
from tests.unit.gpu_worker.kernels.closeness import assert_near, distance
from tests.unit.gpu_worker.kernels.conftest import DEVICE

IS_COMPILED = DEVICE == "cuda"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SHAPES = [(1, 896), (2, 64), (3, 112), (17, 1), (5, 3584), (1, 4864), (2, 18944)]
if IS_COMPILED:
    SHAPES += [(256, 896), (1025, 3584), (16384, 896), (16384, 112), (300, 18944)]
EPS = 1e-6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device=DEVICE) * scale).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), SHAPES)
def test_rms_norm(num_rows: int, size: int, dtype: torch.dtype) -> None:
    hidden, weight = random(num_rows, size, dtype=dtype, scale=3.0), random(size, dtype=dtype)
    assert_near(rms_norm(hidden, weight, EPS), torch_norm.rms_norm(hidden.double(), weight.double(), EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), SHAPES)
def test_silu_mul(num_rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = random(num_rows, 2 * size, dtype=dtype, scale=2.0)
    assert_near(silu_mul(gate_up), torch_activation.silu_mul(gate_up.double()))


def test_silu_of_what_is_far_from_zero_is_zero_or_the_identity() -> None:
    gate_up = torch.tensor([[-1e4, 1e4, 2.0, 2.0]], device=DEVICE)
    torch.testing.assert_close(silu_mul(gate_up), gate_up.new_tensor([[0.0, 2e4]]), rtol=0, atol=1e-20)


def test_rows_need_not_lie_side_by_side() -> None:
    wide = random(4, 200, dtype=torch.float32)
    hidden, weight = wide[:, 3:115], random(112, dtype=torch.float32)
    assert_near(rms_norm(hidden, weight, EPS), torch_norm.rms_norm(hidden.double(), weight.double(), EPS))
    assert_near(silu_mul(hidden), torch_activation.silu_mul(hidden.double()))


def test_no_rows_are_normal() -> None:
    nothing, weight = random(0, 64, dtype=torch.float32), random(64, dtype=torch.float32)
    assert rms_norm(nothing, weight, EPS).shape == (0, 64)
    assert silu_mul(nothing).shape == (0, 32)


def test_heads_are_normalised_each() -> None:
    heads, weight = random(3, 4, 64, dtype=torch.float32), random(64, dtype=torch.float32)
    assert_near(rms_norm(heads, weight, EPS), torch_norm.rms_norm(heads.double(), weight.double(), EPS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tolerance_notices_one_column_too_few(dtype: torch.dtype) -> None:
    hidden, weight = random(2, 896, dtype=dtype), random(896, dtype=dtype).abs() + 1
    out = rms_norm(hidden, weight, EPS)
    out[0, -1] = 0
    hidden[0, -1] = 1
    assert distance(out, torch_norm.rms_norm(hidden.double(), weight.double(), EPS)) > 1
