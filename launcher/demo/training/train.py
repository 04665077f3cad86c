"""Trains the demo model from scratch and writes its folder."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from launcher.demo.training.conversations import END_OF_TEXT, IM_END
from launcher.demo.training.packing import IGNORED, Corpus, batches
from launcher.demo.training.vocabulary import VOCAB_SIZE

MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how fast to train."""

    num_rounds: int
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.03
    max_grad_norm: float = 1.0


def new_model(tokenizer: Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """A model with random weights: few wide layers, because a small model's speed is that of its layer count."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(IM_END),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )
    return Qwen2ForCausalLM(config)


def train(model: Qwen2ForCausalLM, corpus: Corpus, plan: TrainingPlan) -> None:
    """AdamW with a cosine schedule over `num_rounds` differently packed rounds of the corpus."""
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.95), fused=True
    )
    model.train()
    started = time.monotonic()
    for round_number in range(plan.num_rounds):
        losses: list[torch.Tensor] = []
        todo = list(batches(corpus, generator))
        for index, (token_ids, labels) in enumerate(todo):
            progress = (round_number + index / len(todo)) / plan.num_rounds
            _set_learning_rate(optimizer, plan, progress)
            losses.append(_step(model, optimizer, token_ids, labels, plan.max_grad_norm))
        loss = torch.stack(losses).mean().item()
        elapsed_s = time.monotonic() - started
        print(f"round {round_number + 1}/{plan.num_rounds}: loss {loss:.4f}, {len(todo)} steps, {elapsed_s:.0f} s")


def _step(
    model: Qwen2ForCausalLM,
    optimizer: torch.optim.Optimizer,
    token_ids: torch.Tensor,
    labels: torch.Tensor,
    max_norm: float,
) -> torch.Tensor:
    with torch.autocast(token_ids.device.type, dtype=torch.bfloat16):
        hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state
        targets = labels[:, 1:]
        is_target = targets != IGNORED
        logits = model.lm_head(hidden[:, :-1][is_target])
    loss = functional.cross_entropy(logits.float(), targets[is_target])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.detach()


def _set_learning_rate(optimizer: torch.optim.Optimizer, plan: TrainingPlan, progress: float) -> None:
    warmup = min(1.0, progress / plan.warmup_share)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * warmup * max(cosine, 0.01)


def save_model(model: Qwen2ForCausalLM, folder: Path) -> None:
    """Write config, generation config and bfloat16 weights."""
    end_ids = [model.config.eos_token_id, model.config.pad_token_id]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=end_ids, pad_token_id=model.config.pad_token_id
    )
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
