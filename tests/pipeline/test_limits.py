"""Nothing waits where nobody bounds it: full queues, missing stages, clients that do not read."""

import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests

from tests.pipeline.observer import Beats
from tests.pipeline.streams import Stream
from tests.pipeline.system import System, running_system
from wire.messages import Stage

CLIENT_TIMEOUT_S = 2
LONG: dict[str, Any] = {"text": "Tell", "sampling_params": {"max_new_tokens": 3500, "ignore_eos": True}}
SHORT: dict[str, Any] = {"text": "Tell", "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}}
ASK: Any = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that runs one sequence, lets one request wait, and soon gives up on a client that does not read."""
    with running_system(
        tmp_path_factory.mktemp("strict"),
        gateway={"max_queued_requests": 1, "client_timeout": CLIENT_TIMEOUT_S, "api_key": "sesame"},
        worker={"max_running_requests": 1},
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _complete(strict: System) -> Iterator[None]:
    yield
    strict.start({stage: 1 - len(strict.of(stage)) for stage in Stage})
    strict.at_rest()


def post(strict: System, path: str, body: Any) -> requests.Response:
    return requests.post(f"{strict.url}{path}", json=body, headers=strict.headers, timeout=60)


def test_a_full_queue_is_429_with_retry_after_and_harms_nobody_in_it(strict: System) -> None:
    running = Stream(strict.url, LONG | {"rid": "running"}, strict.headers)
    running.wait_for_tokens(1)
    waiting = Stream(strict.url, SHORT, strict.headers)
    worker = strict.one(Stage.WORKER).instance_id
    strict.observer.wait_until(
        lambda beats: worker in beats and beats[worker].num_waiting == 1, "one request waits at the worker"
    )
    for path, body in (("/generate", SHORT), ("/v1/chat/completions", ASK)):
        response = post(strict, path, body)
        assert response.status_code == response.json()["code"] == 429
        assert int(response.headers["Retry-After"]) >= 1
        assert "queue is full" in response.json()["message"]
    post(strict, "/abort_request", {"rid": "running"})
    assert running.result()["meta_info"]["finish_reason"]["type"] == "abort"
    assert waiting.result()["meta_info"]["completion_tokens"] == 4


@pytest.mark.parametrize("stage", [Stage.TOKENIZER, Stage.WORKER, Stage.DETOKENIZER])
def test_without_an_instance_of_a_stage_a_request_is_503_at_once(strict: System, stage: Stage) -> None:
    leaving = strict.one(stage)
    leaving.process.popen.terminate()
    assert leaving.process.wait() == 0
    strict.wait_until_known()
    begun = time.monotonic()
    for path, body in (("/generate", SHORT), ("/v1/chat/completions", ASK | {"stream": True})):
        response = post(strict, path, body)
        assert response.status_code == 503
        assert stage.value in response.json()["message"]
    assert requests.get(f"{strict.url}/ready", timeout=60).status_code == 503
    assert requests.get(f"{strict.url}/health", timeout=60).status_code == 503
    assert time.monotonic() - begun < 5
    strict.start({stage: 1})
    assert requests.get(f"{strict.url}/ready", timeout=60).status_code == 200
    assert post(strict, "/generate", SHORT).status_code == 200


def test_an_admitted_request_waits_for_a_worker_to_come_back(strict: System) -> None:
    body = {"text": "Tell", "sampling_params": {"max_new_tokens": 300, "ignore_eos": True, "temperature": 0}}
    expected = Stream(strict.url, body, strict.headers).result()
    stream = Stream(strict.url, body, strict.headers)
    stream.wait_for_tokens(5)
    strict.one(Stage.WORKER).process.popen.kill()
    strict.of(Stage.WORKER)[0].process.wait()
    assert stream.num_tokens < 300
    strict.start({Stage.WORKER: 1})
    result = stream.result()
    assert result["meta_info"]["completion_tokens"] == 300
    assert result["text"] == expected["text"]


def num_steps(strict: System, *, is_running: bool) -> int:
    """The worker's steps at the first heartbeat in which it is running or not."""
    worker = strict.one(Stage.WORKER).instance_id
    steps: list[int] = []

    def has_come(beats: Beats) -> bool:
        beat = beats.get(worker)
        if beat is not None and (beat.num_running > 0) is is_running:
            steps.append(beat.step)
        return bool(steps)

    strict.observer.wait_until(has_come, f"the worker is {'' if is_running else 'not '}running")
    return steps[0]


def test_a_client_that_stops_reading_is_aborted(strict: System) -> None:
    address = urlsplit(strict.url)
    body = b'{"text": "Tell", "stream": true, "sampling_params": {"max_new_tokens": 3500, "ignore_eos": true}}'
    head = (
        "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer sesame\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname or "", address.port or 0))
        connection.sendall(head.encode() + body)
        first_step = num_steps(strict, is_running=True)
        assert num_steps(strict, is_running=False) - first_step < 3400
        strict.at_rest()
    assert post(strict, "/generate", SHORT).status_code == 200


def test_without_the_key_nothing_but_health_is_answered(strict: System) -> None:
    for path in ("/generate", "/v1/chat/completions", "/flush_cache"):
        response = requests.post(f"{strict.url}{path}", json=SHORT, timeout=60)
        assert response.status_code == 401
        assert response.json()["error"]
    for path in ("/health", "/ready", "/metrics"):
        assert requests.get(f"{strict.url}{path}", timeout=60).status_code == 200
    with (
        openai.Client(base_url=f"{strict.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(**ASK)
