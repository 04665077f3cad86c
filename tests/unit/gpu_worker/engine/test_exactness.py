"""A generation is a function of prompt, parameters, seed and output so far: in float64, to the last token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from gpu_worker.engine import Engine
from gpu_worker.engine_build import build_engine
from gpu_worker.engine_options import EngineOptions
from tests.unit.gpu_worker.builders import Outcome, request, run_to_end
from tests.unit.gpu_worker.checkpoints import VOCAB_SIZE, logprobs

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8]
# Random weights give flat to spiky distributions; these parameters make every feature matter.
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 3.0, "seed": -5, "top_p": 0.9, "top_k": 50, "min_p": 0.01},
    {"temperature": 2.0, "seed": 2**63 + 1, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"temperature": 0.0, "repetition_penalty": 1.7, "logit_bias": {11: 3.0}},
    {"temperature": 2.0, "seed": 9, "stop_token_ids": tuple(range(60)), "min_new_tokens": 18},
]


@pytest.fixture(scope="module")
def engine(qwen2_path: Path) -> Engine:
    return float64_engine(qwen2_path)


def float64_engine(path: Path, **options: Any) -> Engine:
    defaults = {"dtype": "float64", "max_total_tokens": 512, "num_threads": 1, "page_size": 4}
    return build_engine(path, EngineOptions(**{**defaults, **options}))


def run(engine: Engine, **options: Any) -> Outcome:
    sequence = engine.add(request(PROMPT, **{"max_new_tokens": 24, **options}))[0]
    return run_to_end(engine).of(sequence)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_run_resumed_anywhere_goes_on_alike(engine: Engine, sampling: dict[str, Any]) -> None:
    whole = run(engine, **sampling)
    assert len(whole.token_ids) > 5
    for cut in (1, 5, len(whole.token_ids) - 1, len(whole.token_ids)):
        resumed = run(engine, output_ids=tuple(whole.token_ids[:cut]), **sampling)
        assert whole.token_ids[:cut] + resumed.token_ids == whole.token_ids
        assert resumed.finish == whole.finish


@pytest.mark.parametrize("sampling", SAMPLINGS[1:4])
def test_company_and_preemption_change_nothing(engine: Engine, qwen2_path: Path, sampling: dict[str, Any]) -> None:
    alone = run(engine, **sampling)
    tight = float64_engine(qwen2_path, max_total_tokens=100)
    sequences = [tight.add(request(PROMPT, max_new_tokens=24, **sampling))[0] for _ in range(4)]
    collector = run_to_end(tight)
    assert sum(sequence.num_preemptions for sequence in sequences) > 0
    for sequence in sequences:
        assert collector.of(sequence) == alone


def test_choices_differ_and_choice_0_is_that_of_a_single_one(engine: Engine) -> None:
    single = run(engine, temperature=1.5, seed=3)
    sequences = engine.add(request(PROMPT, n=2, temperature=1.5, seed=3, max_new_tokens=24))
    collector = run_to_end(engine)
    first, second = (collector.of(sequence).token_ids for sequence in sequences)
    assert first == single.token_ids
    assert second != first


def test_seeds_differ(engine: Engine) -> None:
    assert len({tuple(run(engine, temperature=1.5, seed=seed).token_ids) for seed in range(4)}) == 4


def test_a_greedy_batch_with_a_sampled_one_stays_greedy(engine: Engine) -> None:
    alone = run(engine)
    greedy = engine.add(request(PROMPT, max_new_tokens=24))[0]
    engine.add(request(PROMPT, max_new_tokens=24, temperature=5.0, top_p=0.5))
    engine.add(request(PROMPT, max_new_tokens=24, temperature=5.0))
    assert run_to_end(engine).of(greedy) == alone


def test_min_new_tokens_holds_stops_off(engine: Engine) -> None:
    stops = tuple(range(0, VOCAB_SIZE, 2))
    assert len(run(engine, temperature=2.0, stop_token_ids=stops).token_ids) < 10
    held = run(engine, temperature=2.0, stop_token_ids=stops, min_new_tokens=10).token_ids
    assert len(held) > 10
    assert not set(held[:10]) & set(stops)


def test_a_stop_id_outside_the_vocabulary_is_harmless(engine: Engine) -> None:
    outcome = run(engine, stop_token_ids=(VOCAB_SIZE + 5,), min_new_tokens=3, max_new_tokens=4)
    assert len(outcome.token_ids) == 4


def test_a_logit_bias_can_force_and_forbid(engine: Engine) -> None:
    plain = run(engine, max_new_tokens=1).token_ids[0]
    assert run(engine, logit_bias={17: 1000.0}, max_new_tokens=3).token_ids == [17, 17, 17]
    assert run(engine, logit_bias={plain: -1000.0}, max_new_tokens=1).token_ids != [plain]


def test_penalties_count_what_was_given(engine: Engine) -> None:
    free = run(engine, logit_bias={17: 20.0}, max_new_tokens=6)
    penalised = run(engine, logit_bias={17: 20.0}, presence_penalty=2.0, frequency_penalty=2.0, max_new_tokens=6)
    resumed = run(
        engine,
        logit_bias={17: 20.0},
        presence_penalty=2.0,
        frequency_penalty=2.0,
        max_new_tokens=6,
        output_ids=tuple(penalised.token_ids[:3]),
    )
    assert free.token_ids != penalised.token_ids
    assert resumed.token_ids == penalised.token_ids[3:]


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_logprobs_are_the_models_own(qwen2: PreTrainedModel, qwen2_path: Path, temperature: float) -> None:
    engine = build_engine(qwen2_path, EngineOptions(max_total_tokens=256, num_threads=1))
    outcome = run(
        engine, temperature=temperature, return_logprob=True, top_logprobs_num=3, frequency_penalty=0.1, seed=2
    )
    want = logprobs(qwen2, PROMPT, outcome.token_ids)
    assert len(outcome.logprobs) == len(outcome.token_ids)
    for row, token_id, found in zip(want, outcome.token_ids, outcome.logprobs, strict=True):
        assert found.logprob == pytest.approx(row[token_id].item(), abs=1e-3)
        values, ids = row.topk(3)
        assert [id_ for id_, _ in found.top] == ids.tolist()
        torch.testing.assert_close(torch.tensor([value for _, value in found.top]), values, atol=1e-3, rtol=0)


def test_the_greedy_choice_is_the_first_of_the_top(engine: Engine) -> None:
    outcome = run(engine, return_logprob=True, top_logprobs_num=1)
    for token_id, found in zip(outcome.token_ids, outcome.logprobs, strict=True):
        assert found.top == ((token_id, found.logprob),)


def test_logprobs_come_without_alternatives_when_none_are_asked(engine: Engine) -> None:
    with_none = engine.add(request(PROMPT, return_logprob=True))[0]
    with_two = engine.add(request(PROMPT, return_logprob=True, top_logprobs_num=2))[0]
    unasked = engine.add(request(PROMPT))[0]
    collector = run_to_end(engine)
    assert [len(found.top) for found in collector.of(with_none).logprobs] == [0] * 4
    assert [len(found.top) for found in collector.of(with_two).logprobs] == [2] * 4
    assert collector.of(unasked).logprobs == []
