"""The runner that keeps its state on the device, on a CPU: its answers are those of transformers, too."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from gpu_worker.engine import Engine
from gpu_worker.engine_build import build_engine
from gpu_worker.engine_options import EngineOptions
from tests.unit.gpu_worker.builders import Outcome, request, run_to_end
from tests.unit.gpu_worker.checkpoints import VOCAB_SIZE, greedy
from tests.unit.gpu_worker.engine.device_engine import device_engine

NUM_TOKENS = 12
PROMPTS = [[(7 * place + 3 * length) % VOCAB_SIZE for place in range(length)] for length in (1, 5, 16, 17, 40, 33)]


@pytest.fixture(scope="module")
def want(qwen2: PreTrainedModel) -> list[list[int]]:
    return [greedy(qwen2, prompt, NUM_TOKENS) for prompt in PROMPTS]


def outcomes(engine: Engine, **sampling: Any) -> list[Outcome]:
    asked = [request(prompt, **{"max_new_tokens": NUM_TOKENS, **sampling}) for prompt in PROMPTS]
    sequences = [engine.add(one)[0] for one in asked]
    collector = run_to_end(engine)
    return [collector.of(sequence) for sequence in sequences]


def answers(engine: Engine) -> list[list[int]]:
    return [outcome.token_ids for outcome in outcomes(engine)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overlaps": False},
        {"page_size": 1},
        {"page_size": 4, "num_tokens": 72},
        {"chunk": 7},
    ],
    ids=["overlap", "no-overlap", "page-1", "preemption", "chunks"],
)
def test_greedy_answers_with_and_without_cache_hits(
    options: dict[str, Any], qwen2_path: Path, want: list[list[int]]
) -> None:
    engine = device_engine(qwen2_path, **options)
    assert answers(engine) == want
    assert answers(engine) == want
    assert engine.num_used_pages == 0


def test_arrivals_while_others_run(qwen2_path: Path, want: list[list[int]]) -> None:
    engine = device_engine(qwen2_path)
    sequences = []
    for prompt in PROMPTS:
        sequences += engine.add(request(prompt, max_new_tokens=NUM_TOKENS))
        for _ in range(3):
            engine.step()
    while engine.has_work:
        engine.step()
    assert [sequence.output_ids.tolist() for sequence in sequences] == want


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 1.0, "seed": 11},
    {"temperature": 1.5, "seed": 3, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "max_new_tokens": 3},
    {"temperature": 1.0, "seed": 4, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"temperature": 0.0, "repetition_penalty": 1.4, "logit_bias": {7: 4.0}},
    {"temperature": 1.0, "seed": 5, "stop_token_ids": tuple(range(0, 199, 2)), "min_new_tokens": 6},
    {"temperature": 0.0, "return_logprob": True, "top_logprobs_num": 3},
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampling_is_that_of_the_plain_runner(sampling: dict[str, Any], qwen2_path: Path) -> None:
    plain = build_engine(qwen2_path, EngineOptions(max_total_tokens=1024, num_threads=1))
    expected, found = outcomes(plain, **sampling), outcomes(device_engine(qwen2_path), **sampling)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.finish for one in found] == [one.finish for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert [[id_ for id_, _ in token.top] for token in one.logprobs] == [
            [id_ for id_, _ in token.top] for token in other.logprobs
        ]
        assert [token.logprob for token in one.logprobs] == pytest.approx([t.logprob for t in other.logprobs], abs=1e-4)
