"""What decoding gave, position by position, a prefill of the same ids gives too: seen from outside, over HTTP."""

import math
from typing import Any

import requests

from tests.pipeline.system import System

NUM_TOKENS = 40
NUM_TOP = 20
PROMPTS = ("The capital of France is", "Grüße an 世界 und 😀, " * 8, "List 3 countries and their capitals.", "x" * 90)
HIGHEST_MEAN = 1e-8
"""In nats. Float32 gives 6e-13 here; decodes whose position is off by one at every sixteenth token give 4e-2."""

Top = dict[int, float]
"""Log probabilities of the likeliest ids."""


def generate(system: System, **body: Any) -> list[Any]:
    fields = {"return_logprob": True, "top_logprobs_num": NUM_TOP}
    response = requests.post(f"{system.url}/generate", json=fields | body, timeout=120)
    assert response.status_code == 200, response.text
    answers: list[Any] = response.json()
    return answers


def tops(answer: Any) -> list[Top]:
    """One entry per output token."""
    return [{entry[1]: entry[0] for entry in row} for row in answer["meta_info"]["output_top_logprobs"]]


def divergence(first: Top, second: Top) -> float:
    """Kullback and Leibler's, in nats, of the likeliest ids that both name and one event for all others."""
    common = first.keys() & second.keys()
    pairs = [(math.exp(first[i]), math.exp(second[i])) for i in common]
    pairs.append((max(1 - sum(p for p, _ in pairs), 1e-12), max(1 - sum(q for _, q in pairs), 1e-12)))
    return sum(p * math.log(p / q) for p, q in pairs)


def test_decoding_and_a_prefill_with_cached_prefixes_agree(system: System) -> None:
    sampling = {"temperature": 1.0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, "sampling_seed": 5}
    decoded = generate(system, text=list(PROMPTS), sampling_params=sampling, return_prompt_token_ids=True)
    beginnings = [
        answer["prompt_token_ids"] + answer["output_ids"][:num_output_tokens]
        for answer in decoded
        for num_output_tokens in range(NUM_TOKENS)
    ]
    prefilled = generate(system, input_ids=beginnings, sampling_params={"temperature": 0, "max_new_tokens": 1})

    shares = [
        answer["meta_info"]["cached_tokens"] / len(ids) for answer, ids in zip(prefilled, beginnings, strict=True)
    ]
    assert min(shares) < 0.5 < max(shares), "some with a cached prefix, some nearly without"
    of_decodes = [top for answer in decoded for top in tops(answer)]
    of_prefills = [top for answer in prefilled for top in tops(answer)]
    found = [divergence(first, second) for first, second in zip(of_decodes, of_prefills, strict=True)]
    assert len(found) == len(PROMPTS) * NUM_TOKENS
    assert sum(found) / len(found) < HIGHEST_MEAN


def test_the_measure_sees_a_difference() -> None:
    likely, shifted = {7: math.log(0.6), 8: math.log(0.3)}, {7: math.log(0.61), 8: math.log(0.3)}
    assert divergence(likely, likely) == 0
    assert 1e-4 < divergence(likely, shifted) < 1e-2
