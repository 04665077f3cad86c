"""The log lines that SGLang's users and their parsers expect."""

import logging

import pytest

from gpu_worker.scheduling.batch import StepStats
from gpu_worker.step_log import StepLog


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="gpu_worker.step_log")
    return caplog


def test_a_prefill_is_logged_at_once(lines: pytest.LogCaptureFixture) -> None:
    ticks = iter((0.0, 0.0, 2.0))
    log = StepLog(clock=lambda: next(ticks))
    log.observe(
        StepStats(
            num_decodes=3,
            num_new_sequences=1,
            num_prefill_tokens=6,
            num_cached_tokens=16,
            num_running=4,
            num_waiting=2,
            num_pending_tokens=9,
            num_used_tokens=25,
            num_kv_tokens=100,
        )
    )
    assert lines.messages == [
        "Prefill batch, #new-seq: 1, #new-token: 6, #cached-token: 16, token usage: 0.25, #running-req: 3, "
        "#queue-req: 2, #pending-token: 9, cuda graph: False, input throughput (token/s): 3.00"
    ]


def test_decodes_are_logged_once_per_interval(lines: pytest.LogCaptureFixture) -> None:
    ticks = iter((0.0, 0.0, 4.0, 5.0))
    log = StepLog(decode_log_interval=2, clock=lambda: next(ticks))
    stats = StepStats(num_decodes=5, num_running=5, num_waiting=1, num_used_tokens=54, num_kv_tokens=100)
    for _ in range(5):
        log.observe(stats)
    assert lines.messages == [
        "Decode batch, #running-req: 5, #token: 54, token usage: 0.54, cuda graph: False, "
        f"gen throughput (token/s): {rate}, #queue-req: 1"
        for rate in ("2.50", "10.00")
    ]


def test_a_step_without_tokens_is_not_logged(lines: pytest.LogCaptureFixture) -> None:
    log = StepLog(decode_log_interval=1)
    log.observe(StepStats())
    assert lines.messages == []
