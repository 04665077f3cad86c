"""The begin of a decode step: by example, and its two implementations against each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpu_worker.kernels.torch_ops import decode_step as torch_decode_step
from gpu_worker.kernels.triton_ops import decode_step as triton_decode_step
from tests.unit.gpu_worker.kernels.conftest import DEVICE

Begin = Callable[..., None]


def begin(function: Begin, rows: list[int], context_lens: list[int], page_size: int) -> list[list[int]]:
    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    last_ids = ints([100 + row for row in range(300)])
    page_tables = ints([[10 * row + page for page in range(7)] for row in range(300)])
    state = [ints(rows), ints(context_lens)]
    outputs = [torch.full_like(state[0], 77) for _ in range(3)]
    function(*state, last_ids, page_tables, page_size, *outputs)
    return [tensor.tolist() for tensor in (state[1], *outputs)]


@pytest.mark.parametrize("function", [torch_decode_step.begin_decode_, triton_decode_step.begin_decode_])
def test_every_sequence_goes_one_token_further_and_padding_nowhere(function: Begin) -> None:
    context_lens, token_ids, positions, slots = begin(function, [2, -1, 0], [5, 0, 8], 4)
    assert context_lens == [6, 0, 9]
    assert token_ids == [102, 0, 100]
    assert positions == [5, 0, 8]
    assert slots == [21 * 4 + 1, -1, 2 * 4]


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("num_seqs", [1, 128, 259])
def test_both_are_equal(num_seqs: int, page_size: int) -> None:
    rows = [-1 if sequence % 7 == 3 else (sequence * 5) % 300 for sequence in range(num_seqs)]
    context_lens = [0 if row < 0 else row % (7 * page_size) for row in rows]
    found = begin(triton_decode_step.begin_decode_, rows, context_lens, page_size)
    assert found == begin(torch_decode_step.begin_decode_, rows, context_lens, page_size)
