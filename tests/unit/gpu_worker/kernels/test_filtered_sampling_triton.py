"""Draws with top-k, top-p and min-p on the device, against the twin that sorts in float64."""

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops.sampling import filtered_sample
from gpu_worker.kernels.triton_ops.filtered_sampling import filtered_sample_
from tests.unit.gpu_worker.kernels.conftest import DEVICE
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds
from tests.unit.gpu_worker.kernels.sampling_rows import Row, tables

allow_computed_loop_bounds()

ON_GPU = DEVICE == "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if ON_GPU else [torch.float16]
VOCAB_SIZES = [199, 1003, 4099, 151936] if ON_GPU else [5003]
NUM_DRAWS = 40 if ON_GPU else 2

FILTERS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 150},
    {"top_k": 100_000},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.7},
    {"top_k": 40, "min_p": 0.05},
    {"top_p": 0.8, "min_p": 0.1},
    {"top_k": 30, "top_p": 0.95, "min_p": 0.02},
]
NOT_DRAWN = -77


def expected(logits: Tensor, rows: list[Row]) -> Tensor:
    def column(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor([getattr(row, name) for row in rows], device=logits.device).to(dtype)

    floats = [column(name) for name in ("temperature", "top_p", "min_p")]
    # The device has them as float32, and a sum may reach the one and not the other.
    temperature, top_p, min_p = (values.float().double() for values in floats)
    integers = [column(name, torch.int64) for name in ("top_k", "seed", "choice", "output_index")]
    return filtered_sample(logits.double(), temperature, integers[0], top_p, min_p, *integers[1:])


def drawn(logits: Tensor, rows: list[Row], **options: int) -> Tensor:
    where = tables(rows, DEVICE)
    token_ids = torch.full((len(rows),), NOT_DRAWN, dtype=torch.int64, device=DEVICE)
    filtered_sample_(token_ids, logits, where.parameters, where.rows, where.output_indexes, **options)
    return token_ids


def rows_of(filters: dict[str, float], num_rows: int, temperature: float = 1.3) -> list[Row]:
    return [Row(temperature, seed=i, choice=i % 2, output_index=i, **filters) for i in range(num_rows)]  # type: ignore[arg-type]


def random_logits(num_rows: int, vocab_size: int, dtype: torch.dtype, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    wide = torch.full((num_rows, vocab_size + 8), 1e4)
    wide[:, :vocab_size] = torch.randn(num_rows, vocab_size, generator=generator) * scale
    return wide.to(DEVICE, dtype)[:, :vocab_size]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_draws_are_those_of_the_sorting_twin(filters: dict[str, float], vocab_size: int, dtype: torch.dtype) -> None:
    rows = rows_of(filters, NUM_DRAWS)
    logits = random_logits(len(rows), vocab_size, dtype)
    assert torch.equal(drawn(logits, rows), expected(logits, rows))


@pytest.mark.parametrize("filters", FILTERS if ON_GPU else FILTERS[1:10:4], ids=str)
def test_what_has_no_room_in_the_list_is_found_in_the_row(filters: dict[str, float]) -> None:
    rows = rows_of(filters, NUM_DRAWS)
    logits = random_logits(len(rows), 4099 if ON_GPU else 199, DTYPES[0])
    assert torch.equal(drawn(logits, rows, max_listed=4), expected(logits, rows))


@pytest.mark.parametrize("filters", FILTERS if ON_GPU else [FILTERS[1], FILTERS[9]], ids=str)
@pytest.mark.parametrize("max_listed", [8192, 4])
def test_equal_logits_pass_in_ascending_order_of_ids(filters: dict[str, float], max_listed: int) -> None:
    rows = rows_of(filters, NUM_DRAWS)
    # Halves of small integers: hundreds of ids share a value.
    logits = (random_logits(len(rows), 4099 if ON_GPU else 199, torch.float32) * 0.7).round() / 2
    assert torch.equal(drawn(logits.half(), rows, max_listed=max_listed), expected(logits, rows))


def test_a_flat_row_and_one_of_masked_ids_are_drawn_from_what_passes() -> None:
    rows = [Row(1.0, seed=1, top_k=5), Row(1.0, seed=2, top_p=0.5), Row(1.0, seed=3, top_k=50, top_p=0.9)]
    logits = torch.zeros((3, 199), dtype=torch.float16, device=DEVICE)
    logits[2] = -torch.inf
    logits[2, [7, 100, 190]] = torch.tensor([1.0, 2.0, 1.5], dtype=torch.float16, device=DEVICE)
    assert torch.equal(drawn(logits, rows), expected(logits, rows))


def test_rows_without_filters_are_left_as_they_are() -> None:
    rows = [Row(), Row(1.0), Row(1.0, top_k=1)]
    logits = random_logits(3, 199, DTYPES[0])
    assert drawn(logits, rows).tolist() == [NOT_DRAWN, NOT_DRAWN, int(logits[2].argmax())]


def test_a_row_without_finite_logits_gives_an_id() -> None:
    rows = [Row(1.0, top_k=5), Row(1.0, top_p=0.5), Row(1.0, min_p=0.5)]
    logits = torch.full((3, 199), -torch.inf, dtype=torch.float16, device=DEVICE)
    assert all(0 <= token_id < 199 for token_id in drawn(logits, rows).tolist())


@pytest.mark.skipif(not ON_GPU, reason="the interpreter takes minutes for a real vocabulary")
@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_real_vocabularies_of_any_entropy(temperature: float, scale: float) -> None:
    rows = [row for filters in FILTERS for row in rows_of(filters, 5, temperature)]
    logits = random_logits(len(rows), 151936, torch.bfloat16, scale)
    differing = (drawn(logits, rows) != expected(logits, rows)).sum()
    # In rows of equal weights by the thousand a sum that reaches top-p exactly is decided by its rounding.
    assert differing <= len(rows) // 20
