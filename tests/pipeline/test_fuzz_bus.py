"""Noise on every subject of a running system: nothing dies, nothing is held, no log floods, and it goes on serving."""

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.pipeline.streams import Stream
from tests.pipeline.system import System, running_system
from tests.unit.wire.conftest import connect
from tests.unit.wire.mutations import hostile_payloads
from wire import subjects
from wire.messages import Stage

MODEL = subjects.model_key("demo")
NUM_MESSAGES = 6000
CHUNK = 250
MOST_LINES = 150
Send = tuple[str, bytes, str]
ASK: dict[str, Any] = {"text": "The capital of France is", "sampling_params": {"temperature": 0, "max_new_tokens": 8}}
LONG: dict[str, Any] = {
    "text": "List 3 countries",
    "sampling_params": {"temperature": 0, "max_new_tokens": 400, "ignore_eos": True},
}


@pytest.fixture(scope="module")
def ports() -> dict[Stage, int]:
    """A free port per stage for its metrics page."""
    with_sockets = {stage: socket.create_server(("127.0.0.1", 0)) for stage in Stage}
    found = {stage: bound.getsockname()[1] for stage, bound in with_sockets.items()}
    for bound in with_sockets.values():
        bound.close()
    return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, ports: dict[Stage, int]) -> Iterator[System]:
    settings_of = {stage.value: {"metrics_port": port} for stage, port in ports.items()}
    settings_of["worker"] |= {"dtype": "float64"}
    settings_of["gateway"] |= {"resume_timeout": 2}  # a request may wait for a model that only a forged heartbeat has
    with running_system(tmp_path_factory.mktemp("fuzzed"), **settings_of) as running:
        yield running


def answer(system: System) -> list[int]:
    """The ids of a correct request. A forged heartbeat is believed until the next one: a worker that is said to leave
    (503) or to have a full queue (429) is asked again."""
    deadline = time.monotonic() + 60
    while (response := requests.post(f"{system.url}/generate", json=ASK, timeout=120)).status_code != 200:
        assert response.status_code in {429, 503}, response.text
        assert time.monotonic() < deadline, response.text
    return list(response.json()["output_ids"])


def subjects_of(system: System) -> list[str]:
    """Every subject that somebody listens on."""
    found = [subjects.PROBE, subjects.abort(MODEL)]
    for stage in Stage:
        instance_id = system.one(stage).instance_id
        found += [subjects.presence(stage, instance_id), subjects.probe(instance_id)]
        found.append(subjects.rpc(MODEL, stage, instance_id))
        if stage is Stage.GATEWAY:
            found.append(subjects.gateway(instance_id))
        else:
            found += [subjects.data(MODEL, stage, instance_id), subjects.control(MODEL, stage, instance_id)]
    return found


def names_in(system: System) -> dict[str, str]:
    """The instance ids of the sample messages, and those of the instances that are really there."""
    numbers = {Stage.GATEWAY: 1, Stage.TOKENIZER: 2, Stage.WORKER: 3, Stage.DETOKENIZER: 4}
    real = {f"{stage.value}-{number:08x}": system.one(stage).instance_id for stage, number in numbers.items()}
    return real | {"Qwen/Qwen2.5-0.5B-Instruct": "demo"}


def noise(system: System, num_messages: int) -> list[Send]:
    """Many messages, each of them for some subject, some with a reply subject on which nobody listens."""
    sends: list[Send] = []
    send = st.tuples(
        st.sampled_from(subjects_of(system)),
        hostile_payloads(names_in(system)),
        st.sampled_from(["", "", "nobody.listens"]),
    )

    @settings(max_examples=num_messages, deadline=None, phases=(Phase.generate,), database=None)
    @given(send)
    def gather(one: Send) -> None:
        sends.append(one)

    gather()
    return sends


async def publish_all(nats_url: str, sends: list[Send]) -> None:
    bus = await connect(nats_url)
    for subject, payload, reply_to in sends:
        await bus.publish_encoded(subject, payload, reply_to)
    await bus.flush()
    await bus.close()


def count(port: int, name: str) -> float:
    page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


def publish_in_chunks(system: System, sends: list[Send]) -> None:
    """Fails with the messages after which something does not run any more, or does not serve."""
    processes = [system.one(stage).process for stage in Stage]
    undisturbed = answer(system)
    for begin in range(0, len(sends), CHUNK):
        chunk = sends[begin : begin + CHUNK]
        asyncio.run(publish_all(system.nats_url, chunk))
        assert answer(system) == undisturbed, chunk
        assert all(process.is_running for process in processes), chunk


def assert_quiet(stage: Stage, lines: list[str]) -> None:
    """Each kind of trouble stands in the log once, however often it came."""
    unusual = [line for line in lines if not re.search(r"HTTP/1\.1|(Prefill|Decode) batch, ", line)]
    subjects_in_trouble = Counter(re.findall(r"undecodable message on (\S+):", "\n".join(unusual)))
    assert set(subjects_in_trouble.values()) == {1}
    assert len(unusual) < MOST_LINES, f"{stage}: {unusual}"


def test_noise_on_every_subject_harms_nobody(system: System, ports: dict[Stage, int]) -> None:
    num_lines = {stage: len(system.one(stage).process.lines) for stage in Stage}
    publish_in_chunks(system, noise(system, NUM_MESSAGES))
    system.wait_until_known()  # and so nobody believes in the instances that were made up
    system.at_rest()
    for stage in Stage:
        assert count(ports[stage], "millrace_bus_undecodable_messages_total") > 1
        assert_quiet(stage, system.one(stage).process.lines[num_lines[stage] :])


def test_streams_in_flight_do_not_notice_the_noise(system: System) -> None:
    """Heartbeats excepted: who can speak for a worker can take its requests away, hence the broker's users."""
    undisturbed = Stream(system.url, LONG).result()
    streams = [Stream(system.url, LONG) for _ in range(4)]
    for stream in streams:
        stream.wait_for_tokens(5)
    publish_in_chunks(system, [send for send in noise(system, 1500) if ".presence." not in send[0]])
    for stream in streams:
        result = stream.result()
        assert (result["output_ids"], result["text"]) == (undisturbed["output_ids"], undisturbed["text"])
    system.at_rest()
