"""What each row of a mixed batch gets, and that rows do not touch each other."""

import torch

from gpu_worker.execution.sampler import sample_tokens
from gpu_worker.scheduling.sequence import Sequence, new_sequences
from tests.unit.gpu_worker.builders import request

LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0])


def sequence(**sampling: object) -> Sequence:
    asked = request([2, 2, 3], **sampling)
    return new_sequences(asked, lambda _, params: params.max_new_tokens or 0, frozenset({1}), 0)[0]


def sample(*sequences: Sequence) -> list[int]:
    return sample_tokens(LOGITS.expand(len(sequences), -1), list(sequences)).token_ids


MIXED = [
    {},
    {"temperature": 1e-7},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.0, "seed": 2, "top_k": 3},
    {"temperature": 2.0, "seed": 3, "top_p": 0.8, "frequency_penalty": 1.0},
    {"logit_bias": {3: 5.0}},
    {"min_new_tokens": 2},
    {"temperature": 0.0, "repetition_penalty": 4.0, "output_ids": (1,)},
]


def test_a_row_gets_in_company_what_it_gets_alone() -> None:
    alone = [sample(sequence(**options))[0] for options in MIXED]
    together = sample(*[sequence(**options) for options in MIXED])
    assert together == alone


def test_greedy_bias_masks_and_penalties_decide_as_they_should() -> None:
    found = [sample(sequence(**options))[0] for options in MIXED]
    assert found[0] == found[1] == 1
    assert found[5] == 3  # biased
    assert found[6] == 2  # the eos id 1 is masked
    # 3 / 4, 2 / 4 and 1 / 4 are all above 0, so the order of the penalised ids stays.
    assert found[7] == 1


def test_logprobs_are_untouched_by_what_changes_the_choice() -> None:
    plain = sequence(return_logprob=True, top_logprobs_num=4)
    biased = sequence(return_logprob=True, top_logprobs_num=4, logit_bias={0: 100.0})
    sampled = sample_tokens(LOGITS.expand(2, -1), [plain, biased])
    assert sampled.token_ids == [1, 0]
    assert sampled.logprobs[0].top == sampled.logprobs[1].top
    assert sampled.logprobs[0].logprob == sampled.logprobs[0].top[0][1]
    assert sampled.logprobs[1].logprob == sampled.logprobs[1].top[3][1]


def test_among_equals_the_chosen_one_is_the_first_of_the_top() -> None:
    logits = torch.zeros(1, 50)
    asked = sequence(return_logprob=True, top_logprobs_num=2)
    sampled = sample_tokens(logits, [asked])
    assert sampled.logprobs[0].top[0] == (sampled.token_ids[0], sampled.logprobs[0].logprob)
    assert len(sampled.logprobs[0].top) == 2


def test_more_alternatives_than_the_vocabulary_are_all_of_it() -> None:
    asked = sequence(return_logprob=True, top_logprobs_num=20)
    assert len(sample_tokens(LOGITS[None], [asked]).logprobs[0].top) == 4
