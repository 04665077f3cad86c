"""The engine on a GPU, with the same code as on a CPU: equal to transformers in float32, close to it in bfloat16."""

from pathlib import Path

import pytest
import torch

from gpu_worker.engine import Engine
from gpu_worker.engine_build import EngineOptions, build_engine
from tests.unit.gpu_worker.builders import request, run_to_end
from tests.unit.gpu_worker.checkpoints import ARCHITECTURES, VOCAB_SIZE, greedy, logprobs, random_model, save

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NUM_TOKENS = 12
PROMPTS = [[(7 * place + 3 * length) % VOCAB_SIZE for place in range(length)] for length in (1, 5, 16, 17, 40, 33)]


def answers(engine: Engine) -> list[list[int]]:
    """Greedy answers to all prompts, asked at once."""
    sequences = [engine.add(request(prompt, max_new_tokens=NUM_TOKENS))[0] for prompt in PROMPTS]
    collector = run_to_end(engine)
    return [collector.of(sequence).token_ids for sequence in sequences]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_answers_are_those_of_transformers_with_and_without_cache_hits(
    architecture: str, tmp_path: Path
) -> None:
    model = random_model(architecture)
    options = EngineOptions(device="cuda", dtype="float32", max_total_tokens=1024, chunked_prefill_size=24)
    engine = build_engine(save(model, tmp_path), options)
    want = [greedy(model, prompt, NUM_TOKENS) for prompt in PROMPTS]
    assert answers(engine) == want
    assert answers(engine) == want
    assert engine.num_used_pages == 0


def test_float32_answers_survive_preemption(tmp_path: Path) -> None:
    model = random_model("qwen2")
    options = EngineOptions(device="cuda", dtype="float32", max_total_tokens=72, page_size=4)
    engine = build_engine(save(model, tmp_path), options)
    assert answers(engine) == [greedy(model, prompt, NUM_TOKENS) for prompt in PROMPTS]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_logprobs_are_those_of_transformers_within_rounding(architecture: str, tmp_path: Path) -> None:
    # Of a tame initialisation: with the large weights of the other tests rounding alone turns answers over.
    model = random_model(architecture, initializer_range=0.05)
    engine = build_engine(save(model, tmp_path), EngineOptions(device="cuda", dtype="bfloat16", max_total_tokens=1024))
    for prompt in PROMPTS:
        sequence = engine.add(request(prompt, max_new_tokens=NUM_TOKENS, return_logprob=True))[0]
        outcome = run_to_end(engine).of(sequence)
        want = logprobs(model, prompt, outcome.token_ids)
        for position, token_id in enumerate(outcome.token_ids):
            assert outcome.logprobs[position].logprob == pytest.approx(float(want[position, token_id]), abs=0.1)


def test_seeded_sampling_draws_the_same_on_a_gpu_as_on_a_cpu(tmp_path: Path) -> None:
    path = save(random_model("llama"), tmp_path)
    drawn = []
    for device in ("cpu", "cuda"):
        engine = build_engine(path, EngineOptions(device=device, dtype="float64", max_total_tokens=1024))
        sequence = engine.add(request(PROMPTS[3], max_new_tokens=24, temperature=1.0, top_p=0.9, seed=11))[0]
        drawn.append(run_to_end(engine).of(sequence).token_ids)
    assert drawn[0] == drawn[1]
