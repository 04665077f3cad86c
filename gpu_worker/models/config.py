"""What `config.json` and `generation_config.json` say, as one frozen value. Refuses what we would compute wrongly."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_worker.models.rope import RopeConfig

Json = dict[str, Any]


class UnsupportedModelError(Exception):
    """The checkpoint is of a kind that this engine cannot run."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder. `sliding_windows` has an entry per layer, None where attention is full."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope: RopeConfig
    has_qkv_bias: bool
    has_output_bias: bool
    has_mlp_bias: bool
    has_qk_norm: bool
    ties_embeddings: bool
    sliding_windows: tuple[int | None, ...]
    eos_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Family:
    """What an architecture fixes that its config does not say."""

    has_qkv_bias: Callable[[Json], bool]
    has_output_bias: Callable[[Json], bool]
    has_qk_norm: bool = False
    sliding_windows: Callable[[Json, int], tuple[int | None, ...]] = lambda _, num_layers: (None,) * num_layers


def _attention_bias(config: Json) -> bool:
    return bool(config.get("attention_bias", False))


def _windows_of_all(config: Json, num_layers: int) -> tuple[int | None, ...]:
    return (config.get("sliding_window"),) * num_layers


def _windows_of_upper_layers(config: Json, num_layers: int) -> tuple[int | None, ...]:
    if not config.get("use_sliding_window", False):
        return (None,) * num_layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers", num_layers)
        kinds = ["full_attention" if layer < first else "sliding_attention" for layer in range(num_layers)]
    return tuple(config["sliding_window"] if kind == "sliding_attention" else None for kind in kinds)


_FAMILIES = {
    "LlamaForCausalLM": _Family(_attention_bias, _attention_bias),
    "MistralForCausalLM": _Family(lambda _: False, lambda _: False, sliding_windows=_windows_of_all),
    "Qwen2ForCausalLM": _Family(lambda _: True, lambda _: False, sliding_windows=_windows_of_upper_layers),
    "Qwen3ForCausalLM": _Family(
        _attention_bias, _attention_bias, has_qk_norm=True, sliding_windows=_windows_of_upper_layers
    ),
}
SUPPORTED_ARCHITECTURES = tuple(_FAMILIES)


def load_model_config(model_path: Path) -> ModelConfig:
    """Read a checkpoint folder's configuration. Raises `UnsupportedModelError`, naming what is not supported."""
    config = _read_json(model_path / "config.json")
    generation_path = model_path / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    return parse_model_config(config, generation)


def parse_model_config(config: Json, generation: Json) -> ModelConfig:
    """As `load_model_config`, from the two decoded files."""
    architecture = _architecture(config)
    _refuse_what_we_cannot_run(config)
    try:
        return _parse(architecture, config, generation)
    except KeyError as error:
        raise UnsupportedModelError(f"The configuration of the model lacks {error}.") from error


def _parse(architecture: str, config: Json, generation: Json) -> ModelConfig:
    family = _FAMILIES[architecture]
    num_heads, num_layers = config["num_attention_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    return ModelConfig(
        architecture=architecture,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        context_length=config["max_position_embeddings"],
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope=_rope_config(config, head_dim),
        has_qkv_bias=family.has_qkv_bias(config),
        has_output_bias=family.has_output_bias(config),
        has_mlp_bias=bool(config.get("mlp_bias", False)),
        has_qk_norm=family.has_qk_norm,
        ties_embeddings=bool(config.get("tie_word_embeddings", False)),
        sliding_windows=family.sliding_windows(config, num_layers),
        eos_ids=_ids(config.get("eos_token_id")) | _ids(generation.get("eos_token_id")),
    )


def _architecture(config: Json) -> str:
    names = config.get("architectures") or ["(none named)"]
    if names[0] not in _FAMILIES:
        supported = ", ".join(SUPPORTED_ARCHITECTURES)
        raise UnsupportedModelError(f"Architecture {names[0]} is not supported; supported are {supported}.")
    return str(names[0])


def _refuse_what_we_cannot_run(config: Json) -> None:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"hidden_act {activation} is not supported; supported is silu.")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModelError(f"Quantized weights ({method}) are not supported.")


def _rope_config(config: Json, head_dim: int) -> RopeConfig:
    """Both spellings: `rope_theta` beside `rope_scaling`, and `rope_parameters` that holds all."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", None) or config.get("rope_theta", 10_000.0)
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    if kind not in RopeConfig.KINDS:
        supported = ", ".join(RopeConfig.KINDS)
        raise UnsupportedModelError(f"RoPE scaling {kind} is not supported; supported are {supported}.")
    if parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedModelError("A partial_rotary_factor other than 1 is not supported.")
    return RopeConfig(head_dim, float(theta), kind, parameters, config["max_position_embeddings"])


def _ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset((value,) if isinstance(value, int) else value)


def _read_json(path: Path) -> Json:
    decoded = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(decoded, dict):
        raise UnsupportedModelError(f"{path} does not hold a JSON object.")
    return decoded
