"""How many pages fit into the memory that is there."""

import pytest
import torch

from gpu_worker.execution.kv_memory import (
    NotEnoughMemoryError,
    allocate_kv,
    bytes_per_page,
    kv_bytes,
    pages_that_fit,
)
from gpu_worker.models.config import ModelConfig, parse_model_config

PAGE_SIZE = 16


@pytest.fixture
def config() -> ModelConfig:
    return parse_model_config(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 10,
            "hidden_size": 64,
            "intermediate_size": 8,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        },
        {},
    )


def test_what_is_allocated_takes_the_bytes_that_were_counted(config: ModelConfig) -> None:
    layers = allocate_kv(config, 5, PAGE_SIZE, torch.device("cpu"), torch.bfloat16)
    taken = sum(tensor.nbytes for layer in layers for tensor in layer)
    assert taken == 5 * bytes_per_page(config, PAGE_SIZE, torch.bfloat16)


def test_only_whole_pages_fit(config: ModelConfig) -> None:
    page = bytes_per_page(config, PAGE_SIZE, torch.float32)
    assert pages_that_fit(3 * page + page // 2, config, PAGE_SIZE, torch.float32) == 3


def test_too_little_memory_is_an_error_that_names_both_numbers(config: ModelConfig) -> None:
    page = bytes_per_page(config, PAGE_SIZE, torch.float32)
    with pytest.raises(NotEnoughMemoryError, match=f"at least {page} bytes .* only {page - 1} bytes"):
        pages_that_fit(page - 1, config, PAGE_SIZE, torch.float32)


def test_workers_that_share_a_device_have_a_share_each() -> None:
    total, weights, steps = 100, 15, 5
    alone = kv_bytes(free=total - weights, total=total, num_own_bytes=weights, num_step_bytes=steps, fraction=0.4)
    assert alone == 25
    full = total - (weights + alone) - weights
    assert kv_bytes(full, total, weights, steps, 0.4) == alone, "beside another one that has its share already"


def test_what_a_step_needs_is_left_whatever_the_share() -> None:
    assert kv_bytes(free=85, total=100, num_own_bytes=15, num_step_bytes=30, fraction=0.9) == 55
    assert kv_bytes(free=20, total=100, num_own_bytes=15, num_step_bytes=30, fraction=0.9) < 0
