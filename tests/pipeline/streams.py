"""Clients that read `/generate` streams while the test does something to the system."""

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import requests


def events_of(response: requests.Response) -> Iterator[str]:
    """The payload of every server-sent event, one line each."""
    for line in response.iter_lines():
        if line:
            text = line.decode()
            assert text.startswith("data: "), text
            yield text.removeprefix("data: ")


class Stream:
    """One stream, read by a thread of its own."""

    def __init__(self, url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._url = url
        self._headers = headers
        self._body = body | {"stream": True}
        self._events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._is_over = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            with requests.post(
                f"{self._url}/generate", json=self._body, headers=self._headers, stream=True, timeout=120
            ) as response:
                assert response.status_code == 200, response.text
                for event in events_of(response):
                    self._take(event)
        except Exception as error:  # noqa: BLE001  # shown by `result`, on the test's own thread
            self._failure = error
        finally:
            with self._news:
                self._is_over = True
                self._news.notify_all()

    def _take(self, event: str) -> None:
        with self._news:
            if event != "[DONE]":
                self._events.append(json.loads(event))
            self._news.notify_all()

    @property
    def num_tokens(self) -> int:
        """Output tokens so far."""
        return len(self._events[-1]["output_ids"]) if self._events else 0

    def wait_for_tokens(self, count: int) -> None:
        """Returns when the client has so many tokens; fails if the stream ends before."""
        with self._news:
            self._news.wait_for(lambda: self.num_tokens >= count or self._is_over, 120)
        assert self.num_tokens >= count, f"{self.num_tokens} tokens, {self._failure!r}, {self._events[-1:]}"

    def result(self) -> dict[str, Any]:
        """The last event, after the end; fails if an event took back what an earlier one had shown."""
        self._thread.join(180)
        assert not self._thread.is_alive(), f"the stream hangs after {self.num_tokens} tokens"
        if self._failure is not None:
            raise self._failure
        for earlier, later in itertools.pairwise(self._events):
            assert later["text"].startswith(earlier["text"])
            assert later["output_ids"][: len(earlier["output_ids"])] == earlier["output_ids"]
        return self._events[-1]
