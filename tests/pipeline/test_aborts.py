"""A request that nobody waits for any more is given up in every stage."""

import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.pipeline.streams import Stream
from tests.pipeline.system import System
from wire.messages import Stage

LONG: dict[str, Any] = {"text": "Tell", "sampling_params": {"max_new_tokens": 3500, "ignore_eos": True}}


def is_working(system: System) -> None:
    """Waits until the worker and the detokenizer have a stream."""
    ids = {system.one(Stage.WORKER).instance_id, system.one(Stage.DETOKENIZER).instance_id}
    system.observer.wait_until(
        lambda beats: ids <= beats.keys() and all(beats[i].num_running > 0 for i in ids), "the stages are working"
    )


def test_a_client_that_leaves_mid_stream_aborts_its_request_in_every_stage(system: System) -> None:
    with requests.post(f"{system.url}/generate", json=LONG | {"stream": True}, stream=True, timeout=60) as response:
        lines = response.iter_lines()  # to be kept: the connection is closed with it
        assert next(lines).startswith(b"data: ")
        is_working(system)
    system.at_rest()


def test_a_client_that_leaves_before_the_answer_aborts_its_request_in_every_stage(system: System) -> None:
    address = urlsplit(system.url)
    body = b'{"text": "Tell", "sampling_params": {"max_new_tokens": 3500, "ignore_eos": true}}'
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(head.encode() + body)
        is_working(system)
    system.at_rest()


def test_only_the_client_that_leaves_is_aborted(system: System) -> None:
    staying = Stream(system.url, {"text": "Stay", "sampling_params": {"max_new_tokens": 200, "ignore_eos": True}})
    with requests.post(f"{system.url}/generate", json=LONG | {"stream": True}, stream=True, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith(b"data: ")
        is_working(system)
    assert staying.result()["meta_info"]["completion_tokens"] == 200
    system.at_rest()


@pytest.mark.parametrize("abort", [{"rid": "abort-me"}, {"abort_all": True}], ids=["by prefix", "all"])
def test_abort_request_ends_a_stream_with_the_reason_abort(system: System, abort: dict[str, Any]) -> None:
    stream = Stream(system.url, LONG | {"rid": "abort-me-7"})
    stream.wait_for_tokens(3)
    assert requests.post(f"{system.url}/abort_request", json=abort, timeout=60).status_code == 200
    result = stream.result()
    assert result["meta_info"]["finish_reason"]["type"] == "abort"
    assert 3 <= result["meta_info"]["completion_tokens"] < 3500
    system.at_rest()


def test_abort_request_leaves_others_alone(system: System) -> None:
    other = Stream(system.url, {"text": "Stay", "sampling_params": {"max_new_tokens": 100, "ignore_eos": True}})
    other.wait_for_tokens(1)
    assert requests.post(f"{system.url}/abort_request", json={"rid": "nobody"}, timeout=60).status_code == 200
    assert other.result()["meta_info"]["finish_reason"] == {"type": "length", "length": 100}


def test_an_aborted_answer_that_is_not_streamed_is_still_an_answer(system: System) -> None:
    answers: list[requests.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            requests.post(f"{system.url}/generate", json=LONG | {"rid": "whole-1"}, timeout=120)
        )
    )
    asking.start()
    is_working(system)
    requests.post(f"{system.url}/abort_request", json={"rid": "whole-1"}, timeout=60)
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["meta_info"]["finish_reason"]["type"] == "abort"
    system.at_rest()
