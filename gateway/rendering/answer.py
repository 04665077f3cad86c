"""What the HTTP side needs from an API's form of answer, streamed or whole."""

from typing import Any, Protocol

import msgspec

from gateway.errors import RequestError, body_of
from gateway.inflight.generation import Call, Generation

DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


class Answer(Protocol):
    """One call's answer."""

    def body(self) -> bytes:
        """The whole answer of a call that is done."""

    def news(self) -> bytes:
        """Server-sent events for what came since the last time; empty if there is nothing to tell."""

    def end(self) -> bytes:
        """The last events of a call that is done, `[DONE]` included."""


def error_events(error: RequestError) -> bytes:
    """What a stream that fails after its beginning ends with."""
    fields: dict[str, Any] = body_of(error)
    nested = fields.pop("error")
    details = nested if isinstance(nested, dict) else {}
    event = {"error": fields | {"type": details.get("type", fields["type"]), "retryable": error.status >= 500}}
    return b"data: " + encode(event) + b"\n\n" + DONE


def num_completion_tokens(generations: list[Generation]) -> int:
    """Output tokens of every choice so far."""
    return sum(choice.num_tokens for generation in generations for choice in generation.choices)


def usage(generations: list[Generation], completion: int, *, with_cache: bool) -> dict[str, Any]:
    """OpenAI's `usage`: every prompt counts once, whatever n is. `completion` is the number of output tokens."""
    prompt = sum(generation.num_prompt_tokens for generation in generations)
    cached = sum(generation.cached_tokens for generation in generations)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached} if with_cache else None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def created(call: Call) -> int:
    """When the call was received, in Unix seconds."""
    return call.received_ns // 10**9
