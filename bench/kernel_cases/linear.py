"""Products, normalisation and activation of Qwen2.5-0.5B and -7B in bfloat16."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
import triton
from torch import Tensor

from bench.kernel_cases.case import KernelCase
from gpu_worker.kernels.torch_ops import linear as torch_linear
from gpu_worker.kernels.triton_ops import linear
from gpu_worker.kernels.triton_ops.activation import silu_mul
from gpu_worker.kernels.triton_ops.matvec import MAX_TOKENS, MatvecBlocks, matvec, matvec_blocks
from gpu_worker.kernels.triton_ops.norm import rms_norm

EPS = 1e-6
_CACHE_BYTES = 256e6  # several times what the L2 of any GPU holds


@dataclass(frozen=True, slots=True)
class Shape:
    """One projection of a model; `kind` says what stands beside it: "norm", "gated" or "add"."""

    name: str
    num_rows: int
    num_inputs: int
    kind: str
    has_bias: bool = False


SHAPES = [
    Shape("0.5B qkv", 1152, 896, "norm", has_bias=True),
    Shape("0.5B o", 896, 896, "add"),
    Shape("0.5B gate_up", 9728, 896, "gated"),
    Shape("0.5B down", 896, 4864, "add"),
    Shape("0.5B lm_head", 151936, 896, "norm"),
    Shape("7B qkv", 4608, 3584, "norm", has_bias=True),
    Shape("7B o", 3584, 3584, "add"),
    Shape("7B gate_up", 37888, 3584, "gated"),
    Shape("7B down", 3584, 18944, "add"),
    Shape("7B lm_head", 152064, 3584, "norm"),
]
"""lm_head has no second set of inputs: one is larger than any cache."""


class Inputs:
    """Tensors for one projection, in as many sets as the cache cannot hold."""

    def __init__(self, shape: Shape, num_tokens: int, device: torch.device) -> None:
        def random(*size: int, scale: float = 1.0) -> Tensor:
            return torch.empty(size, dtype=torch.bfloat16, device=device).normal_(std=scale)

        self.shape = shape
        self.num_sets = max(1, round(_CACHE_BYTES / (2 * shape.num_rows * shape.num_inputs)))
        self.weights = random(self.num_sets, shape.num_rows, shape.num_inputs, scale=shape.num_inputs**-0.5)
        self.hidden = random(self.num_sets, num_tokens, shape.num_inputs)
        self.norm_weight = None if shape.kind == "add" else random(shape.num_inputs)
        self.bias = random(shape.num_rows) if shape.has_bias else None
        num_outputs = shape.num_rows // 2 if shape.kind == "gated" else shape.num_rows
        self.out = random(self.num_sets, num_tokens, num_outputs)

    def case(
        self, way: str, run: Callable[[int], object], peer: Callable[[int], object] | None = None, peer_name: str = ""
    ) -> KernelCase:
        """The projection done in this way."""
        weight, hidden, out = self.weights[0].numel(), self.hidden[0].numel(), self.out[0].numel()
        num_outs = 2 if self.shape.kind == "add" else 1  # it is read as well where it is added to
        return KernelCase(
            f"linear {self.shape.name} rows{self.hidden.shape[1]} {way}".rstrip(),
            run,
            self.num_sets,
            2 * (weight + hidden + num_outs * out),
            2 * weight * self.hidden.shape[1],
            peer,
            peer_name,
        )

    def run_with(self, ops: object) -> Callable[[int], object]:
        """The projection by `ops`, a module of kernels."""

        def run(i: int) -> object:
            if self.shape.kind == "add":
                return ops.linear_add_(self.hidden[i], self.weights[i], self.bias, self.out[i])  # type: ignore[attr-defined]
            op = ops.norm_gate_up if self.shape.kind == "gated" else ops.norm_linear  # type: ignore[attr-defined]
            return op(self.hidden[i], self.norm_weight, EPS, self.weights[i], self.bias)

        return run

    def run_cut(self, blocks: MatvecBlocks) -> Callable[[int], object]:
        """The projection of very few tokens, cut in this way."""
        is_gated, adds = self.shape.kind == "gated", self.shape.kind == "add"

        def run(i: int) -> None:
            inputs = self.hidden[i], self.norm_weight, EPS, self.weights[i], self.bias, self.out[i], is_gated, adds
            matvec(*inputs, blocks=blocks)

        return run


def cases(device: torch.device) -> Iterator[KernelCase]:
    """Ours against cuBLAS and what torch runs beside it."""
    for shape in SHAPES:
        for num_tokens in (1, 2, 4, 8, 16, 64, 256):
            inputs = Inputs(shape, num_tokens, device)
            yield inputs.case("", inputs.run_with(linear), inputs.run_with(torch_linear), "torch_ops")
            del inputs
    for num_rows, size in product((1, 256, 8192), (896, 3584)):
        yield _norm_case(num_rows, size, device)
    for num_rows, size in product((1, 256, 8192), (4864, 18944)):
        yield _silu_case(num_rows, size, device)


def _norm_case(num_rows: int, size: int, device: torch.device) -> KernelCase:
    num_bytes = 2 * num_rows * size
    num_sets = max(1, min(100, round(_CACHE_BYTES / num_bytes)))
    hidden = torch.randn(num_sets, num_rows, size, device=device).bfloat16()
    weight = torch.randn(size, device=device).bfloat16()
    return KernelCase(
        f"rms_norm {num_rows}x{size}",
        lambda i: rms_norm(hidden[i], weight, EPS),
        num_sets,
        2 * num_bytes,
        peer=lambda i: F.rms_norm(hidden[i], (size,), weight, EPS),
        peer_name="F.rms_norm",
    )


def _silu_case(num_rows: int, size: int, device: torch.device) -> KernelCase:
    num_bytes = 2 * 3 * num_rows * size
    num_sets = max(1, min(100, round(_CACHE_BYTES / num_bytes)))
    gate_up = torch.randn(num_sets, num_rows, 2 * size, device=device, dtype=torch.bfloat16)
    return KernelCase(
        f"silu_mul {num_rows}x{size}",
        lambda i: silu_mul(gate_up[i]),
        num_sets,
        num_bytes,
        peer=lambda i: F.silu(gate_up[i][:, :size]).mul_(gate_up[i][:, size:]),
        peer_name="F.silu, mul",
    )


def sweep(device: torch.device) -> Iterator[KernelCase]:
    """Every reasonable way to cut the product of very few tokens; the present choice has a star."""
    for shape, num_tokens in product(SHAPES, (1, 2, 4)):
        chosen = matvec_blocks(shape.num_rows, shape.num_inputs, num_tokens)
        inputs = Inputs(shape, num_tokens, device)
        for blocks in dict.fromkeys((chosen, *_matvec_ways(shape, num_tokens))):
            star = "*" if blocks == chosen else ""
            name = f"{blocks.num_rows}/{blocks.num_inputs}/{blocks.num_warps}{star}"
            yield inputs.case(name, inputs.run_cut(blocks))
        if num_tokens > MAX_TOKENS:
            yield inputs.case("cuBLAS*", inputs.run_with(linear))
        del inputs


def _matvec_ways(shape: Shape, num_tokens: int) -> Iterator[MatvecBlocks]:
    whole = triton.next_power_of_2(shape.num_inputs)
    least = 16 if num_tokens < 4 else 8
    for num_rows, num_inputs, num_warps in product((1, 2, 4, 8), (512, 1024, 2048, 4096, 8192), (1, 2, 4, 8)):
        elements_per_thread = num_rows * num_inputs // (32 * num_warps)
        # Fewer elements do not fill the memory's pipe, more products do not fit the registers.
        is_sensible = least <= elements_per_thread <= 64 // num_tokens
        if is_sensible and num_inputs <= whole and not (shape.kind == "gated" and num_rows == 1):
            yield MatvecBlocks(num_rows, num_inputs, num_warps)
