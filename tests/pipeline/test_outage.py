"""The broker goes away and comes back: streams pause, and lose and repeat nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.pipeline.streams import Stream
from tests.pipeline.system import System
from tests.unit.wire.broker import Broker
from wire.messages import Stage

NUM_TOKENS = 200
LOST = "The connection to NATS is lost. Try again later."


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    server = Broker(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def system(broker: Broker) -> Iterator[System]:
    """One of everything, in float64."""
    running = System(broker.url, {stage: {} for stage in Stage} | {Stage.WORKER: {"dtype": "float64"}})
    try:
        running.start(dict.fromkeys(Stage, 1))
        yield running
    finally:
        running.close()


def body(number: int) -> dict[str, Any]:
    sampling = {"max_new_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 3.0, "sampling_seed": number}
    return {"text": f"{number}: The capital of", "sampling_params": sampling}


def test_streams_outlive_a_restart_of_the_broker(system: System, broker: Broker) -> None:
    undisturbed = [Stream(system.url, body(number)) for number in range(4)]
    expected = [stream.result() for stream in undisturbed]
    streams = [Stream(system.url, body(number)) for number in range(4)]
    for stream in streams:
        stream.wait_for_tokens(10)
    broker.stop()
    system.one(Stage.GATEWAY).process.wait_for_line("lost the connection to NATS")
    assert requests.get(f"{system.url}/ready", timeout=60).status_code == 503
    refused = requests.post(f"{system.url}/generate", json=body(9), timeout=60)
    assert (refused.status_code, refused.json()["message"]) == (503, LOST)
    assert all(stream.num_tokens < NUM_TOKENS for stream in streams)
    streams.append(Stream(system.url, body(3)))  # the gateway keeps it for as long as it takes others to miss somebody
    broker.start()
    for stream, wanted in zip(streams, [*expected, expected[3]], strict=True):
        result = stream.result()
        assert result["output_ids"] == wanted["output_ids"]
        assert result["text"] == wanted["text"]
    system.wait_until_known()
    assert requests.post(f"{system.url}/generate", json=body(9), timeout=60).status_code == 200
    system.at_rest()
