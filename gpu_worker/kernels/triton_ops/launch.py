"""How kernels are launched, where it is the same for several of them."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

DEPENDENT_LAUNCH = True
"""Whether the kernels of a decode step start while the one before them ends, where the device can do it.

That is CUDA's programmatic dependent launch. Such a kernel may ask for weights at once and waits before it touches
anything that another kernel reads or writes. It is over only when the one before it is, so that this holds for all
that came before; therefore whoever launches with `launch_pdl` must wait in every program.

`matvec` does without: its many programs, waiting early, keep others from the memory (7B, one token: 4.7 ms with it, 3.6
ms without). Attention, normalisation and activation gain (0.5B: 1.41 to 1.33 ms a step of 256).
"""
_MAX_ROWS = 512  # of decodes; beyond it a kernel outlasts what an early start saves


def is_dependent(tensor: Tensor) -> bool:
    """Whether kernels on this tensor are launched with `launch_pdl`, and with a constant that makes them wait."""
    return DEPENDENT_LAUNCH and len(tensor) <= _MAX_ROWS and _can_depend(tensor.device)


@cache
def _can_depend(device: torch.device) -> bool:
    is_nvidia = device.type == "cuda" and torch.version.cuda is not None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_for_kernel_before(DEPENDENT: tl.constexpr):
    """Let the next kernel start, and wait until all that the one before has written can be read."""
    if DEPENDENT:
        gdc_launch_dependents()
        gdc_wait()
