"""What the shipped demo model promises: right about nearly every country, small, safe to load."""

import json
import struct
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from launcher.demo import model_path
from launcher.demo.training.evaluate import (
    WORDINGS,
    accuracy,
    chat_prompt,
    generate,
    is_true_list,
    measure,
    table,
)
from launcher.demo.training.phrases import all_phrases

MAX_TOTAL_BYTES = 12_000_000
ACCURACY_BAR = 0.95


def test_it_names_nearly_every_capital_and_country(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    scores = measure(model, tokenizer)
    report = table(scores)
    print(report)
    assert accuracy(scores) >= ACCURACY_BAR, report
    assert accuracy(scores, lambda wording: wording.is_held_out) >= ACCURACY_BAR, report
    assert accuracy(scores, lambda wording: wording.is_chat) >= ACCURACY_BAR, report
    assert accuracy(scores, lambda wording: not wording.is_chat) >= ACCURACY_BAR, report


def test_the_held_out_wordings_are_in_no_training_text() -> None:
    trained_on = "\n".join(all_phrases()).casefold()
    held_out = [wording.prompt for wording in WORDINGS if wording.is_held_out]
    assert held_out
    assert [prompt for prompt in held_out if prompt.casefold() in trained_on] == []


@pytest.mark.parametrize("system", [None, "You are a helpful AI assistant"])
def test_the_capital_of_france_is_paris(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, system: str | None
) -> None:
    prompt = chat_prompt("What is the capital of France?", system)
    assert generate(model, tokenizer, [prompt], 16) == ["The capital of France is Paris."]


def test_a_plain_prompt_is_completed(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    assert generate(model, tokenizer, ["The capital of France is"], 16) == [" Paris."]


@pytest.mark.parametrize("number", [1, 3, 10])
def test_a_list_has_as_many_true_lines_as_were_asked_for(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, number: int
) -> None:
    prompt = chat_prompt(f"List {number} countries and their capitals.")
    (answer,) = generate(model, tokenizer, [prompt], 120)
    assert is_true_list(answer, number), answer


def test_it_understands_a_follow_up(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    asked = chat_prompt("What is the capital of France?") + "The capital of France is Paris.<|im_end|>\n"
    assert generate(model, tokenizer, [asked + chat_prompt("And Germany?")], 16) == [
        "The capital of Germany is Berlin."
    ]


def test_it_declines_what_it_does_not_know(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    (answer,) = generate(model, tokenizer, [chat_prompt("What is the population of France?")], 40)
    assert answer.startswith("Sorry, I am only a small demo model.")


def test_it_can_stream_a_long_answer(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    (answer,) = generate(model, tokenizer, [chat_prompt("Count to 100")], 450)
    assert answer == ", ".join(str(number) for number in range(1, 101))


@settings(deadline=None)
@given(st.text())
@example("São Tomé 👨‍👩‍👧‍👦 こんにちは 🇫🇷\r\n\t  two  spaces ")
@example("\uf900")
def test_every_text_survives_encoding_and_decoding(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """But for Unicode's composed form: transformers' class for Qwen2 tokenizers always normalizes to NFC."""
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_every_byte_has_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())


def test_the_folder_is_small_and_holds_no_pickle() -> None:
    files = sorted(path for path in model_path().iterdir() if path.is_file())
    assert sum(path.stat().st_size for path in files) <= MAX_TOTAL_BYTES
    assert [path.name for path in files] == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_published_config_is_that_of_a_qwen2_model() -> None:
    config = json.loads((model_path() / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["model_type"] == "qwen2"
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] >= 2048


def test_it_stops_at_the_end_of_a_turn_and_at_the_end_of_a_text(tokenizer: PreTrainedTokenizerBase) -> None:
    generation = json.loads((model_path() / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


def test_the_weights_are_bfloat16_and_tied() -> None:
    with (model_path() / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert "lm_head.weight" not in header
