"""A whole system in which every stage has its own broker user, with every secret there is, as loud as it can be.

It answers, it survives the death of a worker, the broker refuses it nothing, and no secret shows anywhere.
"""

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.pipeline.process import LoggedProcess, environment, python_module
from tests.pipeline.streams import Stream
from tests.pipeline.system import System, running_system
from tests.pipeline.test_serve import FLAGS, descendants
from tests.pipeline.test_tracing import SPANS
from tests.unit.deploy.secured_broker import SecuredBroker, running_secured_broker
from tests.unit.wire.collector import Collector, running_collector
from wire.messages import Stage

API_KEY = f"api-key-{secrets.token_hex(8)}"
FILE_KEY = f"file-key-{secrets.token_hex(8)}"
WRONG_KEY = f"wrong-key-{secrets.token_hex(8)}"
PRIVATE = f"private-{secrets.token_hex(8)}"  # what a client writes is nobody else's business either
CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}
LONG: dict[str, Any] = {
    "text": "List 3 countries",
    "sampling_params": {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True},
}


@pytest.fixture(scope="module")
def broker() -> Iterator[SecuredBroker]:
    with running_secured_broker() as running:
        yield running


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, broker: SecuredBroker, collector: Collector) -> Iterator[System]:
    """Two workers; the passwords come once as a setting, once inside the address."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "keys").write_text(f"{FILE_KEY}\n")
    logins = {
        stage.value: {"nats_url": broker.url, "nats_user": stage.value, "nats_password": broker.passwords[stage]}
        for stage in (Stage.GATEWAY, Stage.TOKENIZER, Stage.WORKER)
    }
    logins["detokenizer"] = {"nats_url": broker.url_of(Stage.DETOKENIZER)}
    logins["gateway"] |= {"api_key": API_KEY, "api_key_file": str(folder / "keys")}
    logins["worker"] |= {"dtype": "float64"}
    with running_system(
        folder,
        workers=2,
        nats_url=broker.url_of(Stage.GATEWAY),
        common={"log_level": "debug", "otlp_endpoint": collector.endpoint},
        **logins,
    ) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def chat(system: System, key: str, **fields: Any) -> requests.Response:
    return requests.post(f"{system.url}/v1/chat/completions", json=CHAT | fields, headers=bearer(key), timeout=60)


@pytest.mark.parametrize("key", [API_KEY, FILE_KEY])
def test_a_chat_is_answered_by_stages_that_may_do_only_their_own_part(system: System, key: str) -> None:
    assert "Paris" in chat(system, key).json()["choices"][0]["message"]["content"]


def test_every_question_of_the_gateway_is_answered(system: System) -> None:
    get, headers = requests.get, bearer(API_KEY)
    assert get(f"{system.url}/model_info", headers=headers, timeout=60).json()["model_type"]
    assert len(get(f"{system.url}/server_info", headers=headers, timeout=60).json()["internal_states"]) == 2
    asked = requests.post(f"{system.url}/tokenize", json={"prompt": "a"}, headers=headers, timeout=60).json()
    assert requests.post(f"{system.url}/detokenize", json=asked, headers=headers, timeout=60).json() == {"text": "a"}
    system.at_rest()
    assert get(f"{system.url}/flush_cache?timeout=30", headers=headers, timeout=60).text == "Cache flushed.\n"


def test_a_stream_survives_the_death_of_its_worker(system: System) -> None:
    undisturbed = Stream(system.url, LONG, system.headers).result()
    stream = Stream(system.url, LONG, system.headers)
    stream.wait_for_tokens(20)
    busy: dict[str, int] = {}

    def has_told(beats: dict[str, Any]) -> bool:
        busy.update({i: beats[i].num_running for i in beats if i.startswith("worker-")})
        return any(busy.values())

    system.observer.wait_until(has_told, "a worker runs the request")
    victim = next(worker for worker in system.of(Stage.WORKER) if busy.get(worker.instance_id))
    victim.process.end()
    result = stream.result()
    assert (result["output_ids"], result["text"]) == (undisturbed["output_ids"], undisturbed["text"])
    system.start({Stage.WORKER: 1})


def test_an_abort_reaches_everybody(system: System) -> None:
    with requests.post(
        f"{system.url}/generate", json=LONG | {"stream": True}, headers=system.headers, stream=True, timeout=60
    ) as response:
        next(response.iter_lines())
    system.at_rest()


def test_the_broker_has_refused_nothing(system: System) -> None:
    assert "permissions violation" not in system.logs.lower()


def make_noise(system: System) -> str:
    """Requests that go well and requests that do not; gives all that was answered."""
    refused = chat(system, WRONG_KEY)
    assert refused.status_code == 401
    answers = [refused, chat(system, API_KEY), chat(system, FILE_KEY, temperature=-1)]
    for fields in ({}, {"temperature": PRIVATE}, {"max_tokens": 10**6}, {"stop": PRIVATE}, {"stream": True}):
        assert chat(system, API_KEY, **{"messages": [{"role": "user", "content": PRIVATE}]} | fields).content
    for method, path, body in [
        ("POST", "/generate", b"{"),
        ("POST", "/generate", b'{"text": "x", "sampling_params": {"max_new_tokens": 1}}'),
        ("POST", "/v1/chat/completions", b"\xff"),
        ("DELETE", "/generate", b""),
        ("GET", "/nowhere", b""),
        ("GET", "/v1/models/other", b""),
        ("GET", "/v1/models", b""),
        ("GET", "/model_info", b""),
        ("GET", "/server_info", b""),
        ("GET", "/metrics", b""),
        ("GET", "/openapi.json", b""),
    ]:
        answers.append(requests.request(method, f"{system.url}{path}", data=body, headers=bearer(API_KEY), timeout=60))
    return "\n".join(f"{answer.headers}\n{answer.text}" for answer in answers)


def test_no_secret_is_seen_anywhere(system: System, broker: SecuredBroker, collector: Collector) -> None:
    answers = make_noise(system)
    trace_id = secrets.token_hex(16)
    headers = system.headers | {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    requests.post(f"{system.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60)
    assert len(collector.wait_for(trace_id, len(SPANS))) == len(SPANS)  # and so those of all requests before
    for stage in Stage:
        for instance in system.of(stage):
            instance.process.popen.terminate()
            assert instance.process.wait() == 0
    everything = {
        "an answer": answers,
        "a log": system.logs,
        "a span": "\n".join(map(str, collector.all_spans())),
    }
    assert "POST /v1/chat/completions" in everything["a log"]
    for secret in (API_KEY, FILE_KEY, WRONG_KEY, PRIVATE, *broker.passwords.values()):
        for where, text in everything.items():
            assert secret not in text, f"a secret is in {where}"


# ---- the launcher -------------------------------------------------------------------------------------------------


def test_the_launcher_hands_secrets_down_by_environment_and_shows_none() -> None:
    command = python_module("launcher", "serve", "--trace-console", "--log-level", "debug", *FLAGS)
    millrace = LoggedProcess("millrace", command, environment(os.environ, api_key=API_KEY))
    try:
        url = millrace.wait_for_line(r"ready: (http://127.0.0.1:\d+) serves demo")[1]
        for key in (API_KEY, WRONG_KEY):
            requests.post(f"{url}/v1/chat/completions", json=CHAT, headers=bearer(key), timeout=60)
        millrace.wait_for_line(r"^trace [0-9a-f]{32}: .* finish stop, HTTP 200")
        info = requests.get(f"{url}/server_info", headers=bearer(API_KEY), timeout=60).text
        below = descendants(millrace.popen.pid)
        passwords = {found for pid in below for found in broker_passwords_of(pid)}
        assert len(passwords) == 1, "one embedded broker, one password"
        shown = "\n".join([millrace.log, info, *below.values(), *map(title_of, below)])
        for secret in (API_KEY, WRONG_KEY, *passwords):
            assert secret not in shown
    finally:
        millrace.end()


def broker_passwords_of(pid: int) -> list[str]:
    """As it was given to this process."""
    return re.findall(r"MILLRACE_NATS_PASSWORD=([^\0]+)", Path(f"/proc/{pid}/environ").read_text())


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
