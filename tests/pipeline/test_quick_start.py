"""Every call of SGLang's quick start "Sending Requests", with only port and model name changed."""

import itertools
import json
import subprocess
from typing import Any

import openai
import requests

from tests.pipeline.streams import events_of
from tests.pipeline.system import System

QUESTION = "What is the capital of France?"
CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}]}


def test_chat_by_curl(system: System) -> None:
    command = ["curl", "-s", f"{system.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    shown = subprocess.run([*command, "-d", json.dumps(CHAT)], check=True, capture_output=True, timeout=120).stdout
    answer = json.loads(shown)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_chat_by_requests(system: System) -> None:
    response = requests.post(f"{system.url}/v1/chat/completions", json=CHAT, timeout=120)
    answer = response.json()
    assert response.status_code == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "demo"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["reasoning_content"] is None
    assert "tool_calls" not in choice["message"]
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_chat_by_the_openai_client(client: openai.Client) -> None:
    response = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "List 3 countries and their capitals."}],
        temperature=0,
        max_tokens=64,
    )
    content = response.choices[0].message.content
    assert content is not None
    assert len(content.strip().splitlines()) == 3


def test_streamed_chat_by_the_openai_client(client: openai.Client) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "List 3 countries and their capitals."}],
        temperature=0,
        max_tokens=64,
        stream=True,
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "List 3 countries and their capitals."}],
        temperature=0,
        max_tokens=64,
    )
    assert text == whole.choices[0].message.content


def test_generate_by_requests(system: System) -> None:
    body: dict[str, Any] = {
        "text": "The capital of France is",
        "sampling_params": {"temperature": 0, "max_new_tokens": 32},
    }
    answer = requests.post(f"{system.url}/generate", json=body, timeout=120).json()
    assert "Paris" in answer["text"]
    assert answer["meta_info"]["completion_tokens"] == len(answer["output_ids"])


def test_streamed_generate_is_cumulative_and_ends_with_done(system: System) -> None:
    body: dict[str, Any] = {
        "text": "The capital of France is",
        "sampling_params": {"temperature": 0, "max_new_tokens": 32, "ignore_eos": True},
    }
    whole = requests.post(f"{system.url}/generate", json=body, timeout=120).json()
    with requests.post(f"{system.url}/generate", json=body | {"stream": True}, stream=True, timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *events, last = list(events_of(response))
    assert last == "[DONE]"
    outputs = [json.loads(event) for event in events]
    for earlier, later in itertools.pairwise(outputs):
        assert later["text"].startswith(earlier["text"])
        assert earlier["meta_info"]["finish_reason"] is None
    assert len(outputs) > 1
    assert outputs[-1]["text"] == whole["text"]
    assert outputs[-1]["output_ids"] == whole["output_ids"]
    assert outputs[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 32}
