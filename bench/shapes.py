"""Model folders of well-known shapes without weights: configuration, and a tokenizer of the right size.

`python -m bench.shapes FOLDER` writes them all. Workers fill them with `--load-format dummy`; nobody needs a hub.
"""

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

# The published configurations of Qwen2.5-0.5B and Qwen2.5-7B.
_COMMON: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151643,
}
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
NUM_TOKENS = 151643


def write_shape(name: str, folder: Path) -> Path:
    """A model folder of this shape, made if it is not there; returns it."""
    path = folder / f"qwen2.5-{name}"
    if not (path / "tokenizer_config.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(_COMMON | SHAPES[name]), encoding="utf-8")
        _tokenizer().save(str(path / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
        (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def _tokenizer() -> Tokenizer:
    """Byte-level BPE with as many tokens: all bytes, all pairs of bytes, and triples until it is full."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(itertools.product(alphabet, alphabet))
    num_triples = NUM_TOKENS - len(alphabet) - len(pairs)
    triples = [(first + second, third) for first, second, third in itertools.islice(_triples(alphabet), num_triples)]
    merges = pairs + triples
    words = alphabet + [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def _triples(alphabet: list[str]) -> Iterable[tuple[str, str, str]]:
    letters = [character for character in alphabet if character.isascii() and character.isalpha()]
    return itertools.product(letters, letters, letters)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.shapes", description=__doc__)
    parser.add_argument("folder", type=Path)
    for shape in SHAPES:
        print(write_shape(shape, parser.parse_args().folder))
