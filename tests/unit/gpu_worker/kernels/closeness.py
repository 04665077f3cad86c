"""How near a kernel's result must be to that of exact arithmetic."""

import torch
from torch import Tensor

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
"""Of the norm of the difference, relative to the norm of what is expected."""


def distance(actual: Tensor, expected: Tensor) -> float:
    """The worse of two errors, in units of the tolerance: of all elements together, and of the worst element.

    The latter may be five times as large, measured by itself and the root mean square of what is expected. NaN counts
    as far away.
    """
    assert actual.shape == expected.shape
    difference, expected = actual.double() - expected.double(), expected.double()
    tolerance = TOLERANCE[actual.dtype]
    all_together = difference.norm() / expected.norm()
    worst = (difference.abs() / (expected.abs() + expected.square().mean().sqrt())).max()
    return float(torch.stack([all_together, worst / 5]).max().nan_to_num(nan=float("inf")) / tolerance)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """`expected` is computed from the same inputs in float64."""
    far = distance(actual, expected)
    assert far < 1, f"the error is {far:.2f} times what is allowed"
