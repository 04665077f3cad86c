"""Reading `config.json` as published, in both of its spellings, and refusing what would be computed wrongly."""

from typing import Any

import pytest

from gpu_worker.models.config import ModelConfig, UnsupportedModelError, parse_model_config


def parse(generation: dict[str, Any] | None = None, **options: Any) -> ModelConfig:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        **options,
    }
    return parse_model_config(config, generation or {})


def test_what_is_not_said_has_the_published_defaults() -> None:
    config = parse()
    assert (config.num_kv_heads, config.head_dim, config.rms_norm_eps) == (4, 16, 1e-6)
    assert (config.rope.theta, config.rope.kind) == (10_000.0, "default")
    assert not config.ties_embeddings
    assert config.sliding_windows == (None, None)
    assert config.eos_ids == frozenset()


def test_rope_is_read_in_both_spellings() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    old = parse(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
    new = parse(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    assert old.rope == new.rope
    assert (new.rope.theta, new.rope.kind, new.rope.parameters) == (5e5, "llama3", scaling)
    assert parse(rope_scaling={"type": "linear", "factor": 2.0}).rope.kind == "linear"


def test_eos_ids_of_both_files_count() -> None:
    assert parse(eos_token_id=1).eos_ids == {1}
    assert parse({"eos_token_id": [1, 2]}, eos_token_id=3).eos_ids == {1, 2, 3}


def test_biases_follow_the_architecture() -> None:
    qwen2, qwen3 = parse(architectures=["Qwen2ForCausalLM"]), parse(architectures=["Qwen3ForCausalLM"])
    assert (qwen2.has_qkv_bias, qwen2.has_output_bias, qwen2.has_qk_norm) == (True, False, False)
    assert (qwen3.has_qkv_bias, qwen3.has_output_bias, qwen3.has_qk_norm) == (False, False, True)
    llama = parse(attention_bias=True, mlp_bias=True)
    assert (llama.has_qkv_bias, llama.has_output_bias, llama.has_mlp_bias) == (True, True, True)


def test_a_sliding_window_counts_only_where_it_is_used() -> None:
    assert parse(architectures=["MistralForCausalLM"], sliding_window=8).sliding_windows == (8, 8)
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8}
    assert parse(**qwen2, use_sliding_window=False).sliding_windows == (None, None)
    assert parse(**qwen2, use_sliding_window=True, max_window_layers=1).sliding_windows == (None, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, "),
        ({"architectures": None}, "none named"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "RoPE scaling longrope is not supported; supported are default"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_what_we_cannot_run_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse(**options)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="lacks 'vocab_size'"):
        parse_model_config(
            {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 1, "num_hidden_layers": 1, "hidden_size": 8},
            {},
        )
