"""Random checkpoints of every architecture, small, with weights large enough that greedy answers vary."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 199
_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
ARCHITECTURES = tuple(_CLASSES)


def random_model(architecture: str, **options: Any) -> PreTrainedModel:
    """A model of transformers, in float32, with grouped query heads and non-zero biases."""
    config_class, model_class = _CLASSES[architecture]
    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16 if architecture == "qwen3" else 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    torch.manual_seed(0)
    model = model_class(config_class(**{**shape, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
    return model


def save(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    """Write the checkpoint as its publisher would."""
    model.save_pretrained(folder, **options)
    return folder


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt_ids: list[int], num_tokens: int) -> list[int]:
    """What transformers generates, without any cache: the whole sequence is computed again for each token."""
    token_ids = list(prompt_ids)
    for _ in range(num_tokens):
        logits = model(torch.tensor([token_ids]), use_cache=False).logits
        token_ids.append(int(logits[0, -1].argmax()))
    return token_ids[len(prompt_ids) :]


@torch.no_grad()
def logprobs(model: PreTrainedModel, prompt_ids: list[int], output_ids: list[int]) -> torch.Tensor:
    """Log-softmax [num_output_tokens, vocab_size] at the positions that predict the output."""
    logits = model(torch.tensor([prompt_ids + output_ids]), use_cache=False).logits[0]
    return logits[len(prompt_ids) - 1 : -1].log_softmax(dim=-1)
