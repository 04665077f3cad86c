"""Every operation of a decoder exists twice, under the same name and with the same parameters."""

import inspect

import pytest

from gpu_worker.kernels.kernels import Kernels, TorchKernels
from gpu_worker.kernels.triton_kernels import TritonKernels

OPERATIONS = [name for name, member in vars(Kernels).items() if inspect.isfunction(member) and not name.startswith("_")]


def parameters(owner: type, name: str) -> list[str]:
    names = list(inspect.signature(getattr(owner, name)).parameters)
    return names[1:] if names[:1] == ["self"] else names


def test_there_are_operations() -> None:
    assert {"norm_linear", "linear_add_", "rope_decode_attention", "paged_prefill_attention"} <= set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_take_what_the_interface_says(name: str) -> None:
    wanted = parameters(Kernels, name)
    assert parameters(TorchKernels, name) == wanted
    found = parameters(TritonKernels, name)
    assert found[: len(wanted)] == wanted
    assert found[len(wanted) :] in ([], ["blocks"]), "only how the work is cut may be said besides"
