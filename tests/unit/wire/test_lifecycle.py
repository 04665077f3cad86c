"""The life of a process, seen from outside: ready, drained by SIGTERM, gone."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wire.lifecycle import Instance
from wire.messages import InstanceState, Peer, Stage

SERVICE = """
import asyncio, sys
from wire.background import BackgroundTasks
from wire.checkpoint import CheckpointError
from wire.lifecycle import Instance, run, serve
from wire.messages import Stage

class Example:
    async def start(self):
        print("start", flush=True)
        {start}
    async def announce(self):
        print(instance.state.value, flush=True)
    async def drain(self):
        print("drain", flush=True)
        {drain}
    async def close(self):
        print("close", flush=True)

instance = Instance(Stage.WORKER, "demo")
background = BackgroundTasks()
run(serve(instance, Example(), background, exit_on_stdin_eof={exit_on_stdin_eof}))
"""
FOREVER = "await asyncio.Event().wait()"


@contextmanager
def running(start: str = "pass", drain: str = "pass", exit_on_stdin_eof: bool = False) -> Iterator["Running"]:
    code = SERVICE.format(start=start, drain=drain, exit_on_stdin_eof=exit_on_stdin_eof)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


class Running:
    """A service's process and what it prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def reaches(self, *lines: str) -> None:
        """Waits for the next lines, which must be these."""
        assert self.process.stdout is not None
        assert [self.process.stdout.readline().strip() for _ in lines] == list(lines)

    def ends(self) -> tuple[int, str]:
        """Waits for the end; exit status and what it logged."""
        output, errors = self.process.communicate(timeout=20)
        assert output == ""
        return self.process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_status_is_zero(number: signal.Signals) -> None:
    with running() as service:
        service.reaches("start", "ready")
        service.process.send_signal(number)
        service.reaches("draining", "drain", "leaving", "close")
        assert service.ends() == (0, "")


def test_a_second_signal_does_not_wait_for_the_drain() -> None:
    with running(drain=FOREVER) as service:
        service.reaches("start", "ready")
        service.process.send_signal(signal.SIGTERM)
        service.reaches("draining", "drain")
        service.process.send_signal(signal.SIGTERM)
        status, errors = service.ends()
        assert status == 1
        assert "second signal" in errors


def test_the_end_of_standard_input_counts_as_a_signal() -> None:
    with running(exit_on_stdin_eof=True) as service:
        service.reaches("start", "ready")
        assert service.process.stdin is not None
        service.process.stdin.write("not the end\n")
        service.process.stdin.flush()
        service.process.stdin.close()
        service.process.stdin = None
        service.reaches("draining", "drain", "leaving", "close")
        assert service.ends() == (0, "")


def test_the_end_of_standard_input_means_nothing_unless_asked_for() -> None:
    with running() as service:
        service.reaches("start", "ready")
        assert service.process.stdin is not None
        service.process.stdin.close()
        service.process.stdin = None
        service.process.send_signal(signal.SIGTERM)
        service.reaches("draining", "drain", "leaving", "close")
        assert service.ends() == (0, "")


def test_a_service_that_is_told_to_stop_while_it_starts_gives_up() -> None:
    with running(start=FOREVER) as service:
        service.reaches("start")
        service.process.send_signal(signal.SIGTERM)
        service.reaches("close")
        assert service.ends() == (0, "")


def test_a_start_that_fails_closes_and_shows_the_error() -> None:
    with running(start="raise RuntimeError('no memory')") as service:
        service.reaches("start", "close")
        status, errors = service.ends()
        assert status == 1
        assert "RuntimeError: no memory" in errors


@pytest.mark.parametrize("error", ["ConnectionError('no broker')", "CheckpointError('no model')"])
def test_no_broker_or_no_model_is_one_line_and_no_traceback(error: str) -> None:
    with running(start=f"raise {error}") as service:
        service.reaches("start", "close")
        status, errors = service.ends()
        assert status == 1
        assert errors.splitlines() == [error.split("'")[1]]


FAIL = """
        async def fail():
            while instance.state.value != "{state}":
                await asyncio.sleep(0)
            raise RuntimeError('no heartbeats')
        background.start(fail())"""


@pytest.mark.parametrize("state", ["starting", "ready", "draining"])
def test_a_background_task_that_fails_ends_the_process_whatever_it_does(state: str) -> None:
    start = FAIL.format(state=state) + (f"\n        {FOREVER}" if state == "starting" else "")
    with running(start=start, drain=FOREVER) as service:
        service.reaches("start")
        if state != "starting":
            service.reaches("ready")
        if state == "draining":
            service.process.send_signal(signal.SIGTERM)
            service.reaches("draining", "drain")
        service.reaches("close")
        status, errors = service.ends()
        assert status == 1
        assert "RuntimeError: no heartbeats" in errors
        assert "BackgroundTaskError: the background task" in errors


STUBBORN_TASK = """self.task = asyncio.create_task(self.never_cancelled())
    async def never_cancelled(self):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass"""


def test_a_task_that_cannot_be_cancelled_does_not_keep_the_process() -> None:
    with running(start=STUBBORN_TASK) as service:
        service.reaches("start", "ready")
        service.process.send_signal(signal.SIGTERM)
        service.reaches("draining", "drain", "leaving", "close")
        assert service.ends() == (0, "")


def test_an_instance_knows_who_it_is() -> None:
    instance = Instance(Stage.WORKER, "Qwen/Qwen2.5-0.5B-Instruct")
    assert instance.state is InstanceState.STARTING
    assert instance.peer == Peer(instance.instance_id, 1)
    assert instance.instance_id.startswith("worker-")
    assert instance.model_key == Instance(Stage.GATEWAY, "Qwen/Qwen2.5-0.5B-Instruct").model_key
