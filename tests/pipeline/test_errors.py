"""What is refused, with which status and which words."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests

from tests.pipeline.system import System

CONTEXT_LENGTH = 4096


def post(system: System, path: str, body: Any) -> requests.Response:
    return requests.post(f"{system.url}{path}", json=body, timeout=60)


def generate(system: System, **sampling: Any) -> requests.Response:
    return post(system, "/generate", {"text": "Hello", "sampling_params": sampling})


def test_an_error_speaks_to_clients_of_both_forms(system: System) -> None:
    response = generate(system, top_p=1.5)
    body = response.json()
    assert response.status_code == body["code"] == 400
    assert body["object"] == "error"
    assert body["message"] == body["error"]["message"] == "top_p must be in (0, 1], got 1.5."


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"temperature": -1.5}, "temperature must be a non-negative finite number, got -1.5."),
        ({"top_k": 0}, "top_k must be -1 (disable) or at least 1, got 0."),
        ({"min_p": 1.5}, "min_p must be in [0, 1], got 1.5."),
        ({"frequency_penalty": 2.5}, "frequency_penalty must be in [-2, 2], got 2.5."),
        ({"repetition_penalty": 2.5}, "repetition_penalty must be in (0, 2] (1.0 = no penalty), got 2.5."),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1."),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, "min_new_tokens must be in [0, max_new_tokens(2)], got 3."),
        ({"stop": ["x"] * 33}, "at most 32 stop strings are allowed, got 33"),
    ],
)
def test_a_value_out_of_range_is_refused_in_sglangs_words(
    system: System, sampling: dict[str, Any], message: str
) -> None:
    response = generate(system, **sampling)
    assert response.status_code == 400
    assert response.json()["message"] == message


def test_an_unknown_sampling_key_is_answered_by_a_string(system: System) -> None:
    response = generate(system, seed=1)
    assert response.status_code == 400
    assert response.json()["error"].startswith("unknown field `seed`, expected one of `max_new_tokens`, ")


def test_a_prompt_as_long_as_the_context_is_refused_with_both_numbers(system: System) -> None:
    body = {"input_ids": [5] * CONTEXT_LENGTH, "sampling_params": {"max_new_tokens": 1}}
    response = post(system, "/generate", body)
    assert response.status_code == 400
    assert (
        response.json()["message"] == "The input (4096 tokens) is longer than the model's context length (4096 tokens)."
    )


def test_more_tokens_than_the_context_holds_are_refused(system: System) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "model": "demo", "max_tokens": CONTEXT_LENGTH}
    response = post(system, "/v1/chat/completions", body)
    assert response.status_code == 400
    assert (
        "Requested token count exceeds the model's maximum context length of 4096 tokens." in response.json()["message"]
    )


def test_an_error_of_a_stream_comes_before_it_begins(client: openai.Client) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=CONTEXT_LENGTH, stream=True
        )


def test_messages_cannot_be_empty(client: openai.Client) -> None:
    with pytest.raises(openai.BadRequestError, match="Messages cannot be empty"):
        client.chat.completions.create(model="demo", messages=[])


def test_a_body_that_is_no_json_is_a_bad_request(system: System) -> None:
    response = requests.post(
        f"{system.url}/generate", data=b"{", headers={"Content-Type": "application/json"}, timeout=60
    )
    assert response.status_code == 400
    assert response.json()["object"] == "error"


def test_neither_text_nor_ids_is_refused(system: System) -> None:
    response = post(system, "/generate", {"sampling_params": {}})
    assert response.status_code == 400
    assert response.json()["message"] == "Either text, input_ids or input_embeds should be provided."


def test_what_is_not_supported_is_refused_and_never_ignored(system: System) -> None:
    response = generate(system, regex="a+")
    assert response.status_code == 400
    assert "regex" in response.json()["message"]


def test_an_unknown_model_and_an_unknown_path_are_not_found(system: System, client: openai.Client) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/knows")
    assert requests.get(f"{system.url}/nowhere", timeout=60).status_code == 404


def test_a_body_above_the_limit_is_refused_with_413_before_it_is_read(system: System) -> None:
    limit = 32 * 2**20
    address = urlsplit(system.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.putrequest("POST", "/generate")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(limit + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert str(limit) in json.loads(response.read())["message"]
    connection.close()


def test_a_request_that_no_message_can_carry_is_refused_with_413_and_both_numbers(system: System) -> None:
    response = post(system, "/generate", {"text": "x" * (9 * 2**20)})
    assert response.status_code == 413
    message = response.json()["message"]
    assert str(8 * 2**20) in message
    assert any(int(number) > 9 * 2**20 for number in message.replace(",", " ").split() if number.isdigit())


def test_the_system_goes_on_after_all_this(system: System) -> None:
    assert generate(system, max_new_tokens=1).status_code == 200
    system.at_rest()
