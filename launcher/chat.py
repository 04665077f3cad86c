"""`millrace chat`: a conversation in the terminal, streamed from `/v1/chat/completions`."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
from rich.console import Console

from launcher.chat_stream import ChatError, ChatEvent, stream_answer
from launcher.settings import ChatSettings
from wire.settings import build, build_parser

_CONNECT_TIMEOUT_S = 10.0
_HELP = "/reset forgets the conversation, /exit leaves (so does Ctrl-D), Ctrl-C ends an answer"
_PROMPT = "> "


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Until /exit or the end of input; 1 if there is no server."""
    parser = build_parser("millrace chat", [ChatSettings])
    parser.usage = "%(prog)s [flags]; --help lists them"
    given = vars(parser.parse_args(argv))
    try:
        settings = build(ChatSettings, given, environ)
    except ValueError as error:
        parser.error(str(error))
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
    with httpx.Client(base_url=settings.url, headers=headers, timeout=timeout) as client:
        try:
            _Conversation(client, settings, Console(highlight=False)).run()
        except ChatError as error:
            print(f"millrace chat: {error}", file=sys.stderr)
            return 1
    return 0


class _Conversation:
    """What was said so far. An answer that was broken off stays, as far as it came."""

    def __init__(self, client: httpx.Client, settings: ChatSettings, console: Console) -> None:
        self._client = client
        self._settings = settings
        self._console = console
        self._messages: list[dict[str, str]] = []
        self._reset()

    def _reset(self) -> None:
        self._messages = [{"role": "system", "content": self._settings.system}] if self._settings.system else []

    def run(self) -> None:
        model = self._settings.model or first_model(self._client)
        self._console.print(f"{model} at {self._settings.url}. {_HELP}.", style="dim", markup=False, soft_wrap=True)
        for text in _inputs():
            if text == "/exit":
                return
            if text == "/reset":
                self._reset()
                self._console.print("The conversation begins anew.", style="dim")
            elif text:
                self._ask(model, text)

    def _ask(self, model: str, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        answer = _Answer(self._console)
        try:
            with contextlib.closing(stream_answer(self._client, self._body(model))) as events:
                for event in events:
                    answer.take(event)
        except KeyboardInterrupt:
            self._console.print(" [aborted]", style="yellow", markup=False, end="")
        except ChatError as error:
            self._console.print(str(error), style="red", markup=False)
            self._messages.pop()
            return
        self._messages.append({"role": "assistant", "content": answer.text})
        self._console.print(f"\n{answer.summary()}", style="dim", markup=False)

    def _body(self, model: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": self._messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        if self._settings.max_tokens is not None:
            body["max_tokens"] = self._settings.max_tokens
        return body


class _Answer:
    """One answer as it comes in, and how fast."""

    def __init__(self, console: Console) -> None:
        self.text = ""
        self._console = console
        self._asked_at = time.monotonic()
        self._first_at: float | None = None
        self._num_tokens: int | None = None

    def take(self, event: ChatEvent) -> None:
        if event.text:
            self._first_at = self._first_at or time.monotonic()
            self.text += event.text
            self._console.print(event.text, markup=False, emoji=False, soft_wrap=True, end="")
        if event.num_output_tokens is not None:
            self._num_tokens = event.num_output_tokens

    def summary(self) -> str:
        """Tokens and their rate after the first, where the server said how many there were."""
        now = time.monotonic()
        first_at = self._first_at or now
        parts = [f"first after {first_at - self._asked_at:.2f} s"]
        if self._num_tokens is not None:
            parts.insert(0, f"{self._num_tokens} tokens")
            if self._num_tokens > 1 and now > first_at:
                parts.append(f"{(self._num_tokens - 1) / (now - first_at):.1f} tokens/s")
        return f"[{', '.join(parts)}]"


def first_model(client: httpx.Client) -> str:
    """The name of the model that the server serves; raises `ChatError` in one line if there is no server."""
    try:
        response = client.get("/v1/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except httpx.HTTPStatusError as error:
        raise ChatError(f"{client.base_url} answers {error.response.status_code} to /v1/models") from error
    except httpx.HTTPError as error:
        raise ChatError(f"no server at {client.base_url} ({error}); start one with: millrace serve") from error
    except (LookupError, ValueError) as error:
        raise ChatError(f"{client.base_url} lists no model") from error


def _inputs() -> Iterator[str]:
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, PLC0415  # importing it gives `input` a history; not every build has it
    while True:
        try:
            yield input(_PROMPT if is_interactive else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
