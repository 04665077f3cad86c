"""Everything starts, stops in the order of the pipeline, and leaves nothing behind."""

import asyncio

import pytest

from launcher.keeper import GaveUpError
from launcher.supervisor import Supervisor
from tests.unit.launcher.children import NEVER_READY, PARENT, PATIENT, POLITE, STUBBORN, Recorder, ends, keeper

LONG = 3600.0


async def test_each_tier_leaves_before_the_next_is_asked_to() -> None:
    recorder = Recorder()
    names = [["gateway-0", "gateway-1"], ["tokenizer-0"], ["worker-0"]]
    supervisor = Supervisor([[keeper(name, POLITE, recorder) for name in tier] for tier in names], LONG)
    running = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    supervisor.request_stop()
    await running
    left = [name for name, text in recorder.lines if text == "leaving"]
    assert sorted(left[:2]) == names[0]
    assert left[2:] == ["tokenizer-0", "worker-0"]


async def test_a_restart_replaces_one_process_after_the_other() -> None:
    recorder = Recorder()
    names = [["gateway-0"], ["worker-0", "worker-1"]]
    supervisor = Supervisor([[keeper(name, POLITE, recorder) for name in tier] for tier in names], LONG)
    running = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    num_lines = len(recorder.lines)
    supervisor.request_restart()
    supervisor.request_restart()
    await recorder.wait_for(lambda lines: len(lines) == num_lines + 6)
    told = [(name, text.split()[0]) for name, text in recorder.lines[num_lines:]]
    order = ["worker-0", "worker-1", "gateway-0"]
    assert told == [(name, word) for name in order for word in ("leaving", "ready")]
    supervisor.request_stop()
    await running
    assert not supervisor.was_killed


async def test_a_stop_in_the_middle_of_a_restart_stops_all() -> None:
    recorder = Recorder()
    supervisor = Supervisor([[keeper("worker-0", STUBBORN, recorder)], [keeper("worker-1", PATIENT, recorder)]], LONG)
    running = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    supervisor.request_restart()
    await recorder.wait_for(lambda lines: len(lines) == 4)
    supervisor.request_stop()
    supervisor.request_stop()
    await running
    assert all(ends(int(text.split()[1])) for _, text in recorder.lines if text.startswith("ready"))


async def test_a_process_that_does_not_leave_in_time_is_killed() -> None:
    recorder = Recorder()
    supervisor = Supervisor([[keeper("gateway-0", STUBBORN, recorder)], [keeper("worker-0", POLITE, recorder)]], 0.01)
    running = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    supervisor.request_stop()
    await running
    assert ends(pid_of(recorder, "gateway-0"))


async def test_a_second_request_kills_at_once() -> None:
    recorder = Recorder()
    supervisor = Supervisor([[keeper("gateway-0", STUBBORN, recorder)], [keeper("worker-0", POLITE, recorder)]], LONG)
    running = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    supervisor.request_stop()
    assert not supervisor.was_killed
    supervisor.request_stop()
    await running
    assert supervisor.was_killed
    assert ends(pid_of(recorder, "gateway-0"))
    assert ends(pid_of(recorder, "worker-0"))


async def test_what_a_process_started_ends_with_it() -> None:
    recorder = Recorder()
    supervisor = Supervisor([[keeper("worker-0", PARENT, recorder)]], LONG)
    running = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    supervisor.request_stop()
    await running
    assert ends(pid_of(recorder, "worker-0"))


async def test_one_hopeless_process_ends_all() -> None:
    recorder = Recorder()
    supervisor = Supervisor(
        [[keeper("gateway-0", POLITE, recorder)], [keeper("worker-0", NEVER_READY, recorder)]], LONG
    )
    with pytest.raises(GaveUpError, match="worker-0"):
        await supervisor.run()
    assert all(ends(pid_of(recorder, name)) for name, text in recorder.lines if text.startswith("ready"))


async def test_a_stop_before_the_start_starts_nothing() -> None:
    recorder = Recorder()
    supervisor = Supervisor([[keeper("gateway-0", POLITE, recorder)]], LONG)
    supervisor.request_stop()
    await supervisor.run()
    assert recorder.lines == []


def pid_of(recorder: Recorder, name: str) -> int:
    return int(next(text.split()[1] for text in recorder.texts(name) if text.startswith("ready")))
