"""The angles of rotary position embedding, with the published ways to stretch them over longer contexts."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`parameters` are those of the scaling `kind`, under their names in `config.json`."""

    KINDS: ClassVar = ("default", "linear", "llama3", "yarn")

    head_dim: int
    theta: float
    kind: str = "default"
    parameters: dict[str, Any] = field(default_factory=dict)
    max_positions: int = 0


def rope_tables(config: RopeConfig, num_positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`cos` and `signed_sin` of every position, [num_positions, head_dim]: see `kernels.rope.apply_rope`."""
    frequencies, magnitude = _SCALINGS[config.kind](config)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    cos, sin = angles.cos() * magnitude, angles.sin() * magnitude
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def _default(config: RopeConfig) -> tuple[Tensor, float]:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    return 1.0 / config.theta**exponents, 1.0


def _linear(config: RopeConfig) -> tuple[Tensor, float]:
    frequencies, magnitude = _default(config)
    return frequencies / config.parameters["factor"], magnitude


def _llama3(config: RopeConfig) -> tuple[Tensor, float]:
    """Low frequencies are divided by the factor, high ones kept, with a ramp between (Llama 3.1)."""
    frequencies, magnitude = _default(config)
    factor, low, high, trained = (
        config.parameters[name]
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    turns = trained * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * kept + frequencies / factor * (1 - kept), magnitude


def _yarn(config: RopeConfig) -> tuple[Tensor, float]:
    """Per-frequency interpolation and a scale of the attention (https://arxiv.org/abs/2309.00071)."""
    frequencies, _ = _default(config)
    get = config.parameters.get
    trained = get("original_max_position_embeddings") or config.max_positions
    factor = get("factor") or config.max_positions / trained
    low = _yarn_dimension(config, trained, get("beta_fast") or 32)
    high = _yarn_dimension(config, trained, get("beta_slow") or 1)
    if get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    span = high - low or 0.001
    interpolated = ((torch.arange(config.head_dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
    scaled = frequencies / factor * interpolated + frequencies * (1 - interpolated)
    return scaled, _yarn_magnitude(config, factor)


def _yarn_dimension(config: RopeConfig, trained: int, num_turns: float) -> float:
    """The dimension whose angle makes `num_turns` over the trained context."""
    return config.head_dim * math.log(trained / (num_turns * 2 * math.pi)) / (2 * math.log(config.theta))


def _yarn_magnitude(config: RopeConfig, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    given = config.parameters.get("attention_factor")
    if given is not None:
        return float(given)
    over, under = config.parameters.get("mscale"), config.parameters.get("mscale_all_dim")
    return magnitude(over) / magnitude(under) if over and under else magnitude(1.0)


_SCALINGS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
