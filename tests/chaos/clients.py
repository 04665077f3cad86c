"""Streaming clients: what a client has been shown, and when."""

import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import openai

from tests.chaos.asks import Ask

_PATIENCE_S = 120.0


@dataclass(slots=True, eq=False)
class Shown:
    """One choice, as its client knows it."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish: Any = None
    num_tokens: int = 0
    is_holding: bool = False


class StreamError(Exception):
    """The server ended the stream with an error, or refused it."""


class Client:
    """Both kinds of HTTP client of one gateway; any number of streams."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        limits = httpx.Limits(max_connections=None)
        self.native = httpx.AsyncClient(base_url=url, headers=headers, timeout=_PATIENCE_S, limits=limits)
        key = headers.get("Authorization", "Bearer None").removeprefix("Bearer ")
        self.openai = openai.AsyncClient(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=_PATIENCE_S)

    async def close(self) -> None:
        """Closes what is still open."""
        await self.native.aclose()
        await self.openai.close()


class ChaosStream:
    """Reads one stream to its end, and tells a listener of everything new."""

    def __init__(self, ask: Ask, client: Client, gateway_id: str, on_news: Callable[["ChaosStream"], None]) -> None:
        self.ask = ask
        self.gateway_id = gateway_id
        self.choices: dict[int, Shown] = {}
        self.usage: dict[str, int] = {}
        self.arrivals: list[tuple[float, int]] = []  # when, and how many tokens there were then
        self.error: Exception | None = None
        self.began_at = math.inf
        self.is_open = False
        self.is_over = False
        self._client = client
        self._on_news = on_news

    @property
    def num_tokens(self) -> int:
        """Output tokens so far, of all choices."""
        return sum(shown.num_tokens for shown in self.choices.values())

    @property
    def is_holding(self) -> bool:
        """Whether the last token brought no text: the stream is inside a character or a half-matched stop string."""
        return any(shown.is_holding for shown in self.choices.values())

    def longest_pause(self) -> tuple[float, float]:
        """Seconds between two arrivals, and when that began."""
        moments = [at for at, _ in self.arrivals]
        return max(((late - early, early) for early, late in itertools.pairwise(moments)), default=(0.0, 0.0))

    async def read(self) -> "ChaosStream":
        """Returns itself at the end; an error is kept, not raised."""
        self.began_at = time.monotonic()
        try:
            await (self._read_native() if self.ask.api == "generate" else self._read_openai())
        except (httpx.HTTPError, openai.OpenAIError, StreamError) as error:
            self.error = error
        self.is_over = True
        self._on_news(self)
        return self

    def _note(self) -> None:
        self.arrivals.append((time.monotonic(), self.num_tokens))
        self._on_news(self)

    def _opened(self) -> None:
        self.is_open = True
        self._note()

    async def _read_native(self) -> None:
        body = self.ask.body | {"stream": True}
        is_complete = False
        async with self._client.native.stream("POST", "/generate", json=body) as response:
            if response.status_code != 200:
                raise StreamError(f"HTTP {response.status_code}: {(await response.aread()).decode()}")
            self._opened()
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    is_complete = True
                elif line:
                    self._take_native(msgspec.json.decode(line.removeprefix("data: ")))
        if not is_complete:
            raise StreamError("the stream ended without [DONE]")

    def _take_native(self, event: dict[str, Any]) -> None:
        if "error" in event:
            raise StreamError(str(event["error"]))
        shown = self.choices.setdefault(event.get("index", 0), Shown())
        meta = event["meta_info"]
        shown.text += event["text"]
        shown.token_ids += event["output_ids"]
        if "output_token_logprobs" in meta:
            shown.logprobs += zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True)
        shown.num_tokens, shown.finish = len(shown.token_ids), meta["finish_reason"]
        shown.is_holding = bool(event["output_ids"]) and not event["text"] and shown.finish is None
        prompt_tokens = meta["prompt_tokens"]
        completion_tokens = sum(choice.num_tokens for choice in self.choices.values())
        self.usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        if shown.finish is not None:
            self.usage["counted_tokens"] = self.usage.get("counted_tokens", 0) + meta["completion_tokens"]
        self._note()

    async def _read_openai(self) -> None:
        api = self._client.openai
        create: Any = api.chat.completions.create if self.ask.api == "chat" else api.completions.create
        chunks: AsyncIterator[Any] = await create(**self.ask.body, stream=True)
        self._opened()
        async for chunk in chunks:
            self._take_openai(chunk)
        if not self.usage:
            raise StreamError("the stream ended without its usage")

    def _take_openai(self, chunk: Any) -> None:
        for choice in chunk.choices:
            shown = self.choices.setdefault(choice.index, Shown())
            shown.text += (choice.delta.content if self.ask.api == "chat" else choice.text) or ""
            shown.logprobs += _openai_logprobs(choice.logprobs)
            shown.num_tokens = chunk.usage.completion_tokens - sum(
                other.num_tokens for index, other in self.choices.items() if index != choice.index
            )
            shown.finish = choice.finish_reason or shown.finish
        if not chunk.choices:
            usage = chunk.usage
            self.usage = {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
            }
        self._note()


def _openai_logprobs(logprobs: Any) -> list[Any]:
    """One entry per token; those of completions come as columns."""
    if logprobs is None:
        return []
    if hasattr(logprobs, "content"):
        return [(entry.logprob, entry.token, entry.bytes) for entry in logprobs.content or ()]
    return list(zip(logprobs.token_logprobs, logprobs.tokens, logprobs.top_logprobs, strict=True))
