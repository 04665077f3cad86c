"""The generator against the known answers published with Random123, and the noise made from it."""

import pytest
import torch

from gpu_worker.kernels.torch_ops.philox import gumbel, gumbel_at, philox_4x32

KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def column(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: list[int], expected: str) -> None:
    c0, c1, c2, c3 = (column(word) for word in counter)
    k0, k1 = (column(word) for word in key)
    words = philox_4x32((c0, c1, c2, c3), (k0, k1))
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_noise_of_a_row_does_not_depend_on_the_other_rows() -> None:
    together = gumbel(1001, column(5, -6, 7), column(0, 1, 0), column(3, 3, 900))
    alone = gumbel(1001, column(-6), column(1), column(3))
    assert torch.equal(together[1:2], alone)


def test_seed_choice_and_output_index_each_change_the_noise() -> None:
    rows = gumbel(64, column(5, 6, 5 + (1 << 32), 5, 5), column(0, 0, 0, 1, 0), column(0, 0, 0, 0, 1))
    assert len({tuple(row.tolist()) for row in rows}) == 5


def test_noise_at_single_ids_is_that_of_the_whole_row() -> None:
    position = (column(5, 6), column(0, 1), column(2, 9))
    token_ids = torch.tensor([[3, 998, 0], [1, 500, 2]])
    assert torch.equal(gumbel_at(token_ids, *position), gumbel(1001, *position).gather(1, token_ids))


def test_noise_is_finite_and_distributed_as_gumbel() -> None:
    noise = gumbel(200_000, column(1), column(0), column(0))[0]
    assert torch.isfinite(noise).all()
    # Mean is the Euler-Mascheroni constant, variance pi**2 / 6.
    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.var().item() - 1.6449) < 0.03
