"""Clients that read slowly or not at all hold little, delay nobody, and lose their requests in every stage."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.pipeline.observer import Beats
from tests.pipeline.streams import Stream
from tests.pipeline.system import System, running_system
from wire.messages import Stage

CLIENT_TIMEOUT_S = 0.5
PATIENT_S = 600
MOST_BYTES_PER_READER = 4 << 20


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that soon gives up on a client."""
    with running_system(tmp_path_factory.mktemp("hasty"), gateway={"client_timeout": CLIENT_TIMEOUT_S}) as running:
        yield running


def slow_client(url: str, num_tokens: int) -> socket.socket:
    """Asks for a long stream, with little room for it."""
    sampling = {"max_new_tokens": num_tokens, "ignore_eos": True, "temperature": 0}
    body = json.dumps({"text": "Tell", "stream": True, "sampling_params": sampling})
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.hostname or "", address.port or 0))
    connection.sendall(f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def wait_for_load(system: System, stage: Stage, holds: Callable[[int], bool]) -> None:
    """Until the instance of a stage says, by a new heartbeat, that it has so much to do."""
    instance_id = system.one(stage).instance_id

    def is_so(beats: Beats) -> bool:
        return instance_id in beats and holds(beats[instance_id].num_running)

    system.observer.wait_until(is_so, f"the {stage.value} has so much to do")


def steps_of(system: System) -> int:
    """How many steps the worker has taken, and whether it rests."""
    worker = system.one(Stage.WORKER).instance_id
    steps: list[int] = []

    def has_come(beats: Beats) -> bool:
        if worker in beats:
            steps.append(beats[worker].step if beats[worker].num_running else -1)
        return bool(steps)

    system.observer.wait_until(has_come, "the worker tells of itself")
    return steps[0]


@pytest.mark.parametrize("num_bytes_at_once", [0, 1])
def test_who_does_not_read_or_reads_byte_by_byte_is_aborted_in_every_stage(
    hasty: System, num_bytes_at_once: int
) -> None:
    before = hasty.metrics("millrace_gateway_stuck_clients_total")[""]
    with slow_client(hasty.url, 3500) as connection:
        wait_for_load(hasty, Stage.WORKER, lambda load: load == 1)
        while steps_of(hasty) >= 0:
            if num_bytes_at_once:
                assert connection.recv(num_bytes_at_once)
        hasty.at_rest()
    assert hasty.metrics("millrace_gateway_stuck_clients_total")[""] == before + 1


def test_slow_readers_hold_little_and_delay_nobody(tmp_path: Path) -> None:
    num_readers = 4
    with running_system(tmp_path, gateway={"client_timeout": PATIENT_S}) as system:
        body = {"text": "Hi", "sampling_params": {"max_new_tokens": 100, "ignore_eos": True, "temperature": 0}}
        Stream(system.url, body).result()
        before = resident_bytes(system)
        readers = [slow_client(system.url, 1200) for _ in range(num_readers)]
        wait_for_load(system, Stage.WORKER, lambda load: load == num_readers)
        # They are stuck long before this one ends, and it waits for none of them.
        assert Stream(system.url, body).result()["meta_info"]["completion_tokens"] == 100
        wait_for_load(system, Stage.WORKER, lambda load: load == 0)  # it made all that they have not read
        wait_for_load(system, Stage.GATEWAY, lambda load: load == 0)
        assert resident_bytes(system) - before < num_readers * MOST_BYTES_PER_READER
        assert not any("does not read" in line for line in system.one(Stage.GATEWAY).process.lines)
        for reader in readers:
            reader.close()
        system.at_rest()


def resident_bytes(system: System) -> int:
    """The gateway's memory."""
    pid = system.one(Stage.GATEWAY).process.popen.pid
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
