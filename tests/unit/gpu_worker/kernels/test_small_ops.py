"""Normalisation, activation and rotation against their definitions."""

import math

import torch

from gpu_worker.kernels.torch_ops.activation import silu_mul
from gpu_worker.kernels.torch_ops.norm import rms_norm
from gpu_worker.kernels.torch_ops.rope import apply_rope
from gpu_worker.models.rope import RopeConfig, rope_tables


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    out = rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), eps=0.0)
    torch.testing.assert_close(out, torch.tensor([[3.0, 8.0]]) / math.sqrt(12.5))


def test_silu_mul_gates_the_second_half_by_the_first() -> None:
    out = silu_mul(torch.tensor([[1.0, -1.0, 3.0, 5.0]]))
    sigmoid = 1 / (1 + math.exp(-1.0))
    torch.testing.assert_close(out, torch.tensor([[3.0 * sigmoid, -5.0 * (1 - sigmoid)]]))


def test_rope_rotates_each_pair_by_position_times_frequency() -> None:
    cos, sin = rope_tables(RopeConfig(head_dim=4, theta=100.0), 8, torch.float32)
    heads = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
    (out,) = apply_rope(heads, cos[5][None, None], sin[5][None, None])[0]
    # The pairs are (0, 2) and (1, 3), with frequencies 1 and 1 / 10.
    expected = [math.cos(5.0), -math.sin(0.5), math.sin(5.0), math.cos(0.5)]
    torch.testing.assert_close(out, torch.tensor(expected))


def test_rope_keeps_the_data_type_of_low_precision() -> None:
    cos, sin = rope_tables(RopeConfig(head_dim=8, theta=100.0), 4, torch.float32)
    heads = torch.randn(4, 2, 8).bfloat16()
    out = apply_rope(heads, cos[:, None], sin[:, None])
    assert out.dtype == torch.bfloat16
    exact = apply_rope(heads.double(), cos[:, None].double(), sin[:, None].double())
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)
