"""The trial run before the first request: its first step is as large as steps get."""

import pytest

from gpu_worker.trial import run_trial
from tests.unit.gpu_worker.builders import ArithmeticRunner


def one(_: object) -> int:
    return 1


@pytest.mark.parametrize(("context_length", "num_prompts"), [(1000, 1), (64, 4), (40, 6)])
def test_the_first_step_fills_the_pages_with_prompts_that_the_model_can_hold(
    context_length: int, num_prompts: int
) -> None:
    runner = ArithmeticRunner(page_size=4, rule=one)
    run_trial(runner, num_pages=64, page_size=4, max_running_requests=32, context_length=context_length)
    first = [num_tokens for _, num_tokens in runner.batches[0]]
    assert len(first) == num_prompts
    assert max(first) <= context_length
    assert sum(first) >= 0.75 * 256


@pytest.mark.parametrize("context_length", [1, 2, 3, 6, 8, 9])
def test_a_context_may_be_shorter_than_a_page(context_length: int) -> None:
    runner = ArithmeticRunner(page_size=8, rule=one)
    run_trial(runner, num_pages=8, page_size=8, max_running_requests=4, context_length=context_length)
    assert len(runner.batches) >= 8


def test_few_sequences_are_tried_too() -> None:
    runner = ArithmeticRunner(page_size=4, rule=one)
    run_trial(runner, num_pages=64, page_size=4, max_running_requests=2, context_length=1000)
    assert max(len(batch) for batch in runner.batches) == 2
