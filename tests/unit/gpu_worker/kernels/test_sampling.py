"""Sampling from logits: distributions, filters, penalties, log probabilities."""

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops.sampling import filtered_sample, penalise_, sample, top_logprobs

NUM_DRAWS = 20_000
PROBABILITIES = torch.tensor([0.5, 0.05, 0.25, 0.2])


def counters(num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    return zeros + 11, zeros, torch.arange(num_rows)


def frequencies(token_ids: Tensor) -> Tensor:
    return torch.bincount(token_ids, minlength=4) / len(token_ids)


def draw(*, temperature: float = 1.0, top_k: int = 4, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """Frequencies of the four ids over many positions of one seed."""
    logits = PROBABILITIES.log().expand(NUM_DRAWS, -1)

    def column(value: float) -> Tensor:
        return torch.full((NUM_DRAWS,), value)

    token_ids = filtered_sample(
        logits,
        column(temperature),
        torch.full((NUM_DRAWS,), top_k),
        column(top_p),
        column(min_p),
        *counters(NUM_DRAWS),
    )
    return frequencies(token_ids)


def test_unfiltered_draws_follow_the_softmax() -> None:
    logits = PROBABILITIES.log().expand(NUM_DRAWS, -1)
    token_ids = sample(logits, torch.ones(NUM_DRAWS), *counters(NUM_DRAWS))
    assert torch.allclose(frequencies(token_ids), PROBABILITIES, atol=0.015)


def test_filters_that_let_all_pass_change_nothing() -> None:
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(50)
    plain = sample(logits, ones, *counters(50))
    filtered = filtered_sample(logits, ones, torch.full((50,), 300), ones, ones * 0, *counters(50))
    assert torch.equal(plain, filtered)


def test_temperature_sharpens() -> None:
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    assert torch.allclose(draw(temperature=0.5), expected, atol=0.015)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"top_k": 1}, [0]),
        ({"top_k": 2}, [0, 2]),
        ({"top_p": 0.5}, [0]),
        ({"top_p": 0.51}, [0, 2]),
        ({"top_p": 0.75}, [0, 2]),
        ({"top_p": 0.96}, [0, 1, 2, 3]),
        ({"min_p": 0.45}, [0, 2]),
        ({"min_p": 1.0}, [0]),
        # Of the three best, renormalised 0.53, 0.26, 0.21, two reach 0.78; without renormalising it takes three.
        ({"top_k": 3, "top_p": 0.78}, [0, 2]),
        ({"top_p": 1e-9}, [0]),
    ],
)
def test_filters_keep_the_right_ids_and_their_proportions(filters: dict[str, float], kept: list[int]) -> None:
    mask = torch.zeros(4)
    mask[kept] = 1.0
    expected = PROBABILITIES * mask / (PROBABILITIES * mask).sum()
    found = draw(**filters)  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=0.015)
    assert torch.equal(found > 0, expected > 0)


def test_repetition_divides_positive_and_multiplies_negative_logits() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    nothing = torch.tensor([], dtype=torch.int64)
    seen = torch.tensor([0, 1])
    penalise_(logits, 1, seen, nothing, nothing, repetition=2.0, frequency=0.0, presence=0.0)
    assert logits.tolist() == [[2.0, -2.0, 1.0], [1.0, -4.0, 1.0]]


def test_frequency_counts_and_presence_does_not() -> None:
    logits = torch.zeros(1, 3)
    outputs, counts = torch.tensor([0, 2]), torch.tensor([1, 3])
    penalise_(logits, 0, torch.arange(3), outputs, counts, repetition=1.0, frequency=0.5, presence=0.25)
    assert logits.tolist() == [[-0.75, 0.0, -1.75]]


def test_logprobs_are_those_of_the_softmax_best_first() -> None:
    logits = PROBABILITIES.log()[None] + 3.0
    chosen, top_ids, top_values = top_logprobs(logits, torch.tensor([1]), 2)
    assert chosen.exp().tolist() == pytest.approx([0.05])
    assert top_ids.tolist() == [[0, 2]]
    assert top_values.exp().tolist()[0] == pytest.approx([0.5, 0.25])
