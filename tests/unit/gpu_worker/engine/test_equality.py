"""The engine's greedy answers are those of transformers, whatever the batch, the cache and the memory do."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from gpu_worker.engine import Engine
from gpu_worker.engine_build import build_engine
from gpu_worker.engine_options import EngineOptions
from gpu_worker.scheduling.sequence import Sequence
from tests.unit.gpu_worker.builders import request, run_to_end
from tests.unit.gpu_worker.checkpoints import ARCHITECTURES, VOCAB_SIZE, greedy, logprobs, random_model, save

NUM_TOKENS = 12
PROMPTS = [[(7 * place + 3 * length) % VOCAB_SIZE for place in range(length)] for length in (1, 5, 16, 17, 40, 33)]


def small_engine(path: Path, **options: Any) -> Engine:
    return build_engine(path, EngineOptions(**{"max_total_tokens": 1024, "num_threads": 1, **options}))


def answers(engine: Engine, prompts: list[list[int]]) -> tuple[list[list[int]], list[Sequence]]:
    """Answers to all prompts, asked at once."""
    sequences = [engine.add(request(prompt, max_new_tokens=NUM_TOKENS))[0] for prompt in prompts]
    collector = run_to_end(engine)
    return [collector.of(sequence).token_ids for sequence in sequences], sequences


def expected(model: PreTrainedModel) -> list[list[int]]:
    return [greedy(model, prompt, NUM_TOKENS) for prompt in PROMPTS]


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_of_mixed_lengths(architecture: str, is_tied: bool, tmp_path: Path) -> None:
    model = random_model(architecture, tie_word_embeddings=is_tied)
    want = expected(model)
    assert len({token for answer in want for token in answer}) > 20, "degenerate answers prove nothing"
    found, _ = answers(small_engine(save(model, tmp_path)), PROMPTS)
    assert found == want


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {"num_key_value_heads": 8}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 32}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        (
            "qwen2",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        ("mistral", {"sliding_window": 6}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
        ("qwen3", {"attention_bias": True}),
    ],
    ids=["mha", "mqa-biases", "wide-heads", "linear", "llama3", "yarn", "window", "window-of-upper-layers", "qk-bias"],
)
def test_variants_of_the_architectures(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = random_model(architecture, **options)
    found, _ = answers(small_engine(save(model, tmp_path)), PROMPTS)
    assert found == expected(model)


@pytest.fixture(scope="module")
def want(qwen2: PreTrainedModel) -> list[list[int]]:
    return expected(qwen2)


def test_one_after_the_other(qwen2_path: Path, want: list[list[int]]) -> None:
    engine = small_engine(qwen2_path)
    assert [answers(engine, [prompt])[0][0] for prompt in PROMPTS] == want


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_with_prefix_cache_hits(page_size: int, qwen2_path: Path, want: list[list[int]]) -> None:
    engine = small_engine(qwen2_path, page_size=page_size)
    answers(engine, PROMPTS)
    again, sequences = answers(engine, PROMPTS)
    assert again == want
    assert [s.num_cached_tokens for s in sequences] == [(len(p) - 1) // page_size * page_size for p in PROMPTS]


def test_without_a_prefix_cache(qwen2_path: Path, want: list[list[int]]) -> None:
    engine = small_engine(qwen2_path, has_prefix_cache=False)
    answers(engine, PROMPTS)
    again, sequences = answers(engine, PROMPTS)
    assert again == want
    assert {s.num_cached_tokens for s in sequences} == {0}


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_with_chunked_prefill(chunk: int, qwen2_path: Path, want: list[list[int]]) -> None:
    engine = small_engine(qwen2_path, chunked_prefill_size=chunk)
    assert answers(engine, PROMPTS)[0] == want


@pytest.mark.parametrize("has_prefix_cache", [True, False], ids=["radix", "none"])
def test_with_preemption(has_prefix_cache: bool, qwen2_path: Path, want: list[list[int]]) -> None:
    engine = small_engine(qwen2_path, max_total_tokens=72, page_size=4, has_prefix_cache=has_prefix_cache)
    found, sequences = answers(engine, PROMPTS)
    assert sum(s.num_preemptions for s in sequences) > 0
    assert found == want


def test_with_arrivals_while_others_run(qwen2_path: Path, want: list[list[int]]) -> None:
    engine = small_engine(qwen2_path, chunked_prefill_size=16)
    sequences = []
    steps = []
    for prompt in PROMPTS:
        sequences += engine.add(request(prompt, max_new_tokens=NUM_TOKENS))
        steps += [engine.step() for _ in range(2)]
    while engine.has_work:
        steps.append(engine.step())
    assert [sequence.output_ids.tolist() for sequence in sequences] == want


def test_from_shards(qwen2: PreTrainedModel, want: list[list[int]], tmp_path: Path) -> None:
    save(qwen2, tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert answers(small_engine(tmp_path), PROMPTS)[0] == want


def test_in_bfloat16_answers_begin_with_a_likely_token(qwen2: PreTrainedModel, qwen2_path: Path) -> None:
    found, _ = answers(small_engine(qwen2_path, dtype="bfloat16"), PROMPTS)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        assert answer[0] in logprobs(qwen2, prompt, answer[:1])[0].topk(5).indices
