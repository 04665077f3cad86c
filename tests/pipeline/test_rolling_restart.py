"""Every instance of every stage is replaced, one after the other, under load: no request fails, no text is wrong."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.pipeline.load import SteadyLoad
from tests.pipeline.process import LoggedProcess, environment, python_module
from tests.pipeline.system import StageInstance, System, running_system
from wire.messages import Stage

NUM_CLIENTS = 56
NUM_TOKENS = 24
FLAGS = ["--port", "0", "--device", "cpu", "--dtype", "float64", "--max-total-tokens", "16384", "--num-threads", "1"]
TWO_OF_EACH = [part for stage in ("gateways", "tokenizers", "workers", "detokenizers") for part in (f"--{stage}", "2")]


@pytest.fixture
def shared_socket() -> "socket.socket":
    """What all gateways listen on, as they do under `millrace serve`."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def test_with_processes(tmp_path: Path, shared_socket: socket.socket) -> None:
    """Workers hand most of what they have back, since they may finish for a moment only."""
    with (
        shared_socket,
        running_system(
            tmp_path,
            gateways=0,
            tokenizers=2,
            workers=2,
            detokenizers=2,
            worker={"dtype": "float64", "drain_timeout": 0.05},
        ) as system,
    ):
        gateways = [start_gateway(system, shared_socket) for _ in range(2)]
        system.wait_until_known()
        load = SteadyLoad(system.url, num_clients=NUM_CLIENTS, num_tokens=NUM_TOKENS)
        load.learn()
        load.start()
        for stage in (Stage.DETOKENIZER, Stage.WORKER, Stage.TOKENIZER):
            old = system.of(stage)
            for leaving in old:
                end(leaving, load)
                system.start({stage: 1})
            if stage is Stage.WORKER:
                assert any("requests back to" in worker.process.log for worker in old), "nothing was handed over"
        for leaving in gateways:
            end(leaving, load)
            start_gateway(system, shared_socket)
        load.wait_for_answers(NUM_CLIENTS)
        load.stop()
        load.assert_all_right()
        system.at_rest()


def start_gateway(system: System, shared_socket: socket.socket) -> StageInstance:
    """One that shares the socket; returns when it sees every stage."""
    descriptor = shared_socket.fileno()
    process = system.launch(Stage.GATEWAY, inherited_fds=(descriptor,), listen_fd=descriptor)
    gateway = system.joined(Stage.GATEWAY, process)
    process.wait_for_line("ready to roll")
    return gateway


def end(leaving: StageInstance, load: SteadyLoad) -> None:
    """Asks an instance to leave while the load is on; it does, in peace."""
    load.wait_for_answers(NUM_CLIENTS // 2)
    load.assert_all_right()
    assert load.num_in_flight >= 50
    leaving.process.popen.terminate()
    assert leaving.process.wait() == 0, leaving.process.log


def test_with_millrace_serve() -> None:
    command = python_module("launcher", "serve", *TWO_OF_EACH, *FLAGS)
    millrace = LoggedProcess("millrace", command, environment(os.environ))
    try:
        url = millrace.wait_for_line(r"ready: (http://127.0.0.1:\d+) serves demo")[1]
        load = SteadyLoad(url, num_clients=NUM_CLIENTS, num_tokens=NUM_TOKENS)
        load.learn()
        load.start()
        millrace.popen.send_signal(signal.SIGUSR1)
        millrace.wait_for_line("every instance has been restarted", 240)
        load.wait_for_answers(NUM_CLIENTS)
        load.stop()
        load.assert_all_right()
        millrace.popen.send_signal(signal.SIGINT)
        assert millrace.wait() == 0
    finally:
        millrace.end()
