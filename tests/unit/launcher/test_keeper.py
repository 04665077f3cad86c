"""A process is started again when it dies, and given up when it never gets ready."""

import asyncio
import os
import signal

import pytest

from launcher.keeper import GaveUpError, RestartPolicy, kept
from tests.unit.launcher.children import (
    NEVER_READY,
    POLITE,
    READY_AND_DEAD,
    STUBBORN,
    WRONG_SETTINGS,
    Recorder,
    keeper,
)


async def test_a_killed_process_is_started_again() -> None:
    recorder = Recorder()
    polite = keeper("worker-0", POLITE, recorder)
    keeping = asyncio.create_task(polite.keep())
    await polite.ready.wait()
    first_pid = polite.pid
    assert first_pid is not None
    os.kill(first_pid, signal.SIGKILL)
    await recorder.wait_for(lambda lines: len(lines) == 2)
    polite.stop()
    await keeping
    first, second, last = recorder.texts("worker-0")
    assert first == f"ready {first_pid}"
    assert second.startswith("ready")
    assert second != first
    assert last == "leaving"


async def test_a_restart_ends_when_the_successor_is_ready_and_waits_for_no_delay() -> None:
    recorder = Recorder()
    polite = keeper("worker-0", POLITE, recorder, RestartPolicy(first_delay_s=3600, max_delay_s=3600))
    keeping = asyncio.create_task(polite.keep())
    await polite.ready.wait()
    await polite.restart(stop_timeout_s=3600)
    first, last_words, second = recorder.texts("worker-0")
    assert last_words == "leaving"
    assert second == f"ready {polite.pid}" != first
    polite.stop()
    await keeping


async def test_a_process_that_does_not_leave_for_its_successor_is_killed() -> None:
    recorder = Recorder()
    stubborn = keeper("worker-0", STUBBORN, recorder)
    keeping = asyncio.create_task(stubborn.keep())
    await stubborn.ready.wait()
    await stubborn.restart(stop_timeout_s=0.01)
    assert len(recorder.texts("worker-0")) == 2
    stubborn.kill()
    await keeping


async def test_a_process_that_never_gets_ready_is_given_up_with_its_last_words() -> None:
    recorder = Recorder()
    with pytest.raises(GaveUpError, match=r"worker-0 exited with status 1 .*\(3 times\):\n  no such model"):
        await keeper("worker-0", NEVER_READY, recorder).keep()
    assert recorder.texts("worker-0") == ["no such model"] * 3


async def test_wrong_settings_are_not_tried_twice() -> None:
    recorder = Recorder()
    with pytest.raises(GaveUpError, match="status 2 before it was ready:\n  bad flag"):
        await keeper("worker-0", WRONG_SETTINGS, recorder).keep()
    assert recorder.texts("worker-0") == ["bad flag"]


async def test_a_process_that_was_ready_once_is_never_given_up() -> None:
    recorder = Recorder()
    dying = keeper("worker-0", READY_AND_DEAD, recorder)
    keeping = asyncio.create_task(dying.keep())
    await recorder.wait_for(lambda lines: len(lines) == 5)
    dying.stop()
    await keeping


async def test_a_stop_ends_the_wait_for_the_next_start() -> None:
    recorder = Recorder()
    dying = keeper("worker-0", READY_AND_DEAD, recorder, RestartPolicy(first_delay_s=3600, max_delay_s=3600))
    keeping = asyncio.create_task(dying.keep())
    await dying.ready.wait()
    dying.stop()
    await keeping
    assert recorder.texts("worker-0") == ["ready"]


async def test_a_kept_process_lives_as_long_as_the_block() -> None:
    recorder = Recorder()
    polite = keeper("nats", POLITE, recorder)
    async with kept(polite, stop_timeout_s=30):
        assert polite.pid is not None
    assert polite.pid is None
    assert recorder.texts("nats")[-1] == "leaving"


async def test_the_block_does_not_begin_without_its_process() -> None:
    with pytest.raises(GaveUpError, match="no such model"):
        async with kept(keeper("nats", NEVER_READY, Recorder()), stop_timeout_s=30):
            pytest.fail("the block ran")


def test_the_delay_doubles_up_to_its_limit() -> None:
    policy = RestartPolicy(first_delay_s=0.5, max_delay_s=3)
    assert [policy.delay_s(lives) for lives in (1, 2, 3, 4, 1000)] == [0.5, 1, 2, 3, 3]
