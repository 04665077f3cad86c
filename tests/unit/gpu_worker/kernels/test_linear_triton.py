"""Matrix products in Triton, and what is done in passing, against plain torch in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops import linear as torch_linear
from gpu_worker.kernels.triton_ops import launch, linear
from gpu_worker.kernels.triton_ops.matvec import MatvecBlocks, matvec, matvec_blocks
from tests.unit.gpu_worker.kernels.closeness import assert_near, distance
from tests.unit.gpu_worker.kernels.conftest import DEVICE

IS_COMPILED = DEVICE == "cuda"
BRAIN, HALF, SINGLE = torch.bfloat16, torch.float16, torch.float32
# (num_tokens, num_inputs, num_outputs, dtype). Of bfloat16 the interpreter can multiply one token's, which is upcast.
CASES = [
    (1, 64, 8, BRAIN),
    (1, 112, 24, HALF),
    (2, 112, 8, HALF),
    (3, 64, 112, HALF),
    (16, 896, 40, HALF),
    (17, 112, 112, HALF),
    (2, 112, 112, SINGLE),
]
if IS_COMPILED:
    SIZES = [(64, 8), (112, 112), (896, 1152), (4864, 112), (4864, 896)]
    CASES = [(tokens, *size, BRAIN) for size in SIZES for tokens in (1, 2, 3, 5, 16, 17)]
    CASES += [(tokens, *size, dtype) for size in SIZES[1:3] for dtype in (HALF, SINGLE) for tokens in (1, 3, 16, 17)]
EPS = 1e-6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device=DEVICE) * scale).to(dtype)


def weights(num_outputs: int, num_inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the normalisation, of the product, and its bias, which every other size has."""
    return (
        random(num_inputs, dtype=dtype),
        random(num_outputs, num_inputs, dtype=dtype, scale=num_inputs**-0.5),
        random(num_outputs, dtype=dtype) if num_outputs % 112 else None,
    )


def exact(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.double() for tensor in tensors]


@pytest.mark.parametrize(("num_tokens", "num_inputs", "num_outputs", "dtype"), CASES)
def test_norm_linear(num_tokens: int, num_inputs: int, num_outputs: int, dtype: torch.dtype) -> None:
    hidden = random(num_tokens, num_inputs, dtype=dtype, scale=3.0)
    norm_weight, weight, bias = weights(num_outputs, num_inputs, dtype)
    h, n, w, b = exact(hidden, norm_weight, weight, bias)
    assert_near(linear.norm_linear(hidden, norm_weight, EPS, weight, bias), torch_linear.norm_linear(h, n, EPS, w, b))


@pytest.mark.parametrize(("num_tokens", "num_inputs", "num_outputs", "dtype"), CASES)
def test_norm_gate_up(num_tokens: int, num_inputs: int, num_outputs: int, dtype: torch.dtype) -> None:
    hidden = random(num_tokens, num_inputs, dtype=dtype, scale=3.0)
    norm_weight, weight, bias = weights(2 * num_outputs, num_inputs, dtype)
    h, n, w, b = exact(hidden, norm_weight, weight, bias)
    assert_near(linear.norm_gate_up(hidden, norm_weight, EPS, weight, bias), torch_linear.norm_gate_up(h, n, EPS, w, b))


@pytest.mark.parametrize(("num_tokens", "num_inputs", "num_outputs", "dtype"), CASES)
def test_linear_add(num_tokens: int, num_inputs: int, num_outputs: int, dtype: torch.dtype) -> None:
    hidden, residual = random(num_tokens, num_inputs, dtype=dtype), random(num_tokens, num_outputs, dtype=dtype)
    _, weight, bias = weights(num_outputs, num_inputs, dtype)
    h, w, b, expected = exact(hidden, weight, bias, residual)
    torch_linear.linear_add_(h, w, b, expected)
    linear.linear_add_(hidden, weight, bias, residual)
    assert_near(residual, expected)


def surrounded(num_tokens: int, num_outputs: int, dtype: torch.dtype) -> tuple[Tensor, Callable[[], None]]:
    """An output of NaN amid what must not be written, and the check that it was not."""
    whole = torch.full([num_tokens + 2, num_outputs], float("nan"), dtype=dtype, device=DEVICE)
    whole[0] = whole[-1] = 1e3

    def check() -> None:
        assert (whole[[0, -1]] == 1e3).all()

    return whole[1:-1], check


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "warps"), [(1, 32, 1), (2, 32, 1), (4, 64, 4), (8, 128, 2), (2, 1024, 4)])
def test_a_matvec_is_the_same_however_it_is_cut(
    rows: int, inputs: int, warps: int, is_gated: bool, num_tokens: int
) -> None:
    num_inputs, num_outputs = 112, 7
    hidden = random(num_tokens, num_inputs, dtype=SINGLE)
    norm_weight, weight, bias = weights(num_outputs * (1 + is_gated), num_inputs, SINGLE)
    out, check = surrounded(num_tokens, num_outputs, SINGLE)
    blocks = MatvecBlocks(rows, inputs, warps)
    matvec(hidden, norm_weight, EPS, weight, bias, out, is_gated=is_gated, blocks=blocks)
    twin = torch_linear.norm_gate_up if is_gated else torch_linear.norm_linear
    h, n, w, b = exact(hidden, norm_weight, weight, bias)
    assert_near(out, twin(h, n, EPS, w, b))
    check()


def test_a_weight_that_was_not_measured_is_cut_like_the_most_similar_one() -> None:
    assert matvec_blocks(1152, 896) == MatvecBlocks(2, 1024, 4)
    assert matvec_blocks(4096, 4096) == matvec_blocks(4608, 3584)
    assert matvec_blocks(128256, 2048) == matvec_blocks(152064, 3584)
    assert matvec_blocks(896, 4864).num_inputs == 8192
    assert matvec_blocks(16, 64).num_inputs == 64
    for num_rows, num_inputs in [(152064, 3584), (896, 4864), (16, 64)]:
        blocks = matvec_blocks(num_rows, num_inputs, 4)
        assert 4 * blocks.num_rows * blocks.num_inputs <= 64 * 32 * blocks.num_warps


def test_a_residual_stream_near_the_end_of_float16_does_not_overflow() -> None:
    for num_tokens in (1, 2):
        hidden = random(num_tokens, 64, dtype=HALF, scale=8e3)
        norm_weight, weight, _ = weights(16, 64, HALF)
        norm_weight *= 16
        h, n, w = exact(hidden, norm_weight, weight)
        out = linear.norm_linear(hidden, norm_weight, EPS, weight, None)
        assert_near(out, torch_linear.norm_linear(h, n, EPS, w, None))


def test_no_tokens_are_normal() -> None:
    norm_weight, weight, bias = weights(16, 64, HALF)
    nothing, residual = random(0, 64, dtype=HALF), random(0, 16, dtype=HALF)
    assert linear.norm_linear(nothing, norm_weight, EPS, weight, bias).shape == (0, 16)
    assert linear.norm_gate_up(nothing, norm_weight, EPS, weight, bias).shape == (0, 8)
    linear.linear_add_(nothing, weight, bias, residual)


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_the_tolerance_notices_one_input_too_few(num_tokens: int) -> None:
    hidden = random(num_tokens, 896, dtype=HALF)
    norm_weight, weight, _ = weights(24, 896, HALF)
    shorter = weight.clone()
    shorter[:, 500] = 0
    h, n, w = exact(hidden, norm_weight, weight)
    norm_weight[500] = n[500] = hidden[:, 500] = h[:, 500] = 1
    out = linear.norm_linear(hidden, norm_weight, EPS, shorter, None)
    assert distance(out, torch_linear.norm_linear(h, n, EPS, w, None)) > 1


@pytest.mark.parametrize("num_tokens", [2, 4])
def test_very_few_tokens_are_added_to_their_residuals(num_tokens: int) -> None:
    hidden, residual = random(num_tokens, 200, dtype=HALF), random(num_tokens, 40, dtype=HALF)
    _, weight, bias = weights(40, 200, HALF)
    h, w, b, expected = exact(hidden, weight, bias, residual)
    torch_linear.linear_add_(h, w, b, expected)
    matvec(hidden, None, 0.0, weight, bias, residual, adds=True)
    assert_near(residual, expected)


@pytest.mark.skipif(not IS_COMPILED, reason="needs a CUDA device")
@pytest.mark.parametrize("is_dependent", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 2])
def test_a_chain_in_a_graph_gives_the_same_bits_each_time(
    num_tokens: int, is_dependent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, size = torch.bfloat16, 896
    norm_weight, up, _ = weights(2 * 4864, size, dtype)
    _, down, bias = weights(size, 4864, dtype)
    start = random(num_tokens, size, dtype=dtype)
    residual = start.clone()

    def run() -> None:
        residual.copy_(start)
        for _ in range(8):
            hidden = linear.norm_gate_up(residual, norm_weight, EPS, up, None)
            linear.linear_add_(hidden, down, bias, residual)

    monkeypatch.setattr(launch, "DEPENDENT_LAUNCH", False)
    run()
    expected = residual.clone()
    monkeypatch.setattr(launch, "DEPENDENT_LAUNCH", is_dependent)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(20):
        residual.fill_(float("nan"))
        graph.replay()
        assert torch.equal(residual, expected)
