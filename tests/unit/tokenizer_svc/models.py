"""Tiny model folders for the tests of the tokenizer: a byte-level BPE, a ChatML template, no weights."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'critic' %}{{ raise_exception('There is no role critic.') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{%- for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments.city }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<no-think>{% endif %}"
    "{%- endif %}"
)
_CORPUS = ["the capital of France is Paris and the capital of Italy is Rome, said the user to the assistant"] * 4


def write_model(
    folder: Path,
    *,
    chat_template: str | None = CHATML,
    context_length: int = 64,
    generation_config: dict[str, Any] | None = None,
    bos: bool = False,
) -> Path:
    """A transformers folder with a tokenizer of 259 to 320 tokens; with `bos`, texts begin with <|endoftext|>."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": tokenizer.get_vocab_size() + 8,
        "max_position_embeddings": context_length,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation_config or {}))
    if chat_template is not None:
        tokenizer_config = {"chat_template": chat_template, "eos_token": "<|im_end|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


def _train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer
