"""One streamed answer from an OpenAI-compatible server, event by event."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx

_DATA = "data:"
_DONE = "[DONE]"


class ChatError(Exception):
    """The server is not there, or refuses; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """A piece of the answer; the last event says how many tokens it has."""

    text: str = ""
    num_output_tokens: int | None = None


def stream_answer(client: httpx.Client, body: dict[str, Any]) -> Generator[ChatEvent, None, None]:
    """Posts a chat completion and yields what comes. Closing the iterator ends the answer at the server too."""
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                raise ChatError(_refusal(response.status_code, response.read()))
            for line in response.iter_lines():
                data = line.removeprefix(_DATA).strip()
                if data == _DONE:
                    return
                if line.startswith(_DATA):
                    yield _event(data)
    except httpx.HTTPError as error:
        raise ChatError(f"the connection to {client.base_url} broke: {error}") from error


def _event(data: str) -> ChatEvent:
    chunk = json.loads(data)
    if "error" in chunk:
        raise ChatError(_message_of(chunk))
    choices = chunk.get("choices") or [{}]
    text = (choices[0].get("delta") or {}).get("content") or ""
    return ChatEvent(text, (chunk.get("usage") or {}).get("completion_tokens"))


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"{_message_of(json.loads(body))} (HTTP {status})"
    except ValueError:
        return f"HTTP {status}"


def _message_of(body: dict[str, Any]) -> str:
    error = body.get("error", body)
    return str(error.get("message", error) if isinstance(error, dict) else error)
