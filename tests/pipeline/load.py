"""A steady load of many clients, each of which sends its next request on the same connection as soon as it has an
answer, and compares what it got."""

import asyncio
import collections
import json
import threading
from typing import Any

import httpx

PROMPTS = ("The capital of France is", "Grüße an 世界 😀", "List 3 countries", "x " * 200)
NUM_BODIES = 12


def bodies(num_tokens: int) -> list[dict[str, Any]]:
    """Different requests with one right answer each, in float64."""
    return [
        {
            "text": f"{number}: {PROMPTS[number % len(PROMPTS)]}",
            "sampling_params": {
                "max_new_tokens": num_tokens,
                "ignore_eos": True,
                "temperature": (0, 2.0)[number % 2],
                "sampling_seed": number,
            },
            "stream": number % 3 != 0,
        }
        for number in range(NUM_BODIES)
    ]


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> str:
    """The text of an answer, streamed or whole; raises for whatever is not a complete one."""
    response = await client.post(f"{url}/generate", json=body)
    response.raise_for_status()
    if not body["stream"]:
        return str(response.json()["text"])
    *events, last = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert last == "[DONE]", f"the stream ends with {last}"
    return str(json.loads(events[-1])["text"])


class SteadyLoad:
    """Runs on a thread of its own from `start` to `stop`."""

    def __init__(self, url: str, *, num_clients: int, num_tokens: int) -> None:
        self.failures: list[str] = []
        self.num_answers = 0
        self.num_in_flight = 0
        self._url = url
        self._num_clients = num_clients
        self._bodies = bodies(num_tokens)
        self._expected: list[str] = []
        self._is_stopping = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def learn(self) -> None:
        """Asks for everything once, undisturbed: what is right."""

        async def all_once() -> list[str]:
            async with httpx.AsyncClient(timeout=120) as client:
                return [await ask(client, self._url, body) for body in self._bodies]

        self._expected = asyncio.run(all_once())

    def start(self) -> None:
        """Begins; returns when every client has a request in flight."""
        self._thread.start()
        with self._news:
            self._news.wait_for(lambda: self.num_in_flight == self._num_clients, 60)

    def wait_for_answers(self, count: int) -> None:
        """Returns when so many more answers have come, or something went wrong."""
        with self._news:
            target = self.num_answers + count
            assert self._news.wait_for(lambda: self.num_answers >= target or bool(self.failures), 120)

    def stop(self) -> None:
        """Lets every client get its last answer."""
        self._is_stopping = True
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*map(self._client, range(self._num_clients)))

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=1)) as client:
            for place in range(number, 1_000_000):
                if self._is_stopping:
                    return
                await self._ask(client, place % NUM_BODIES)

    async def _ask(self, client: httpx.AsyncClient, place: int) -> None:
        self._note(1)
        try:
            text = await ask(client, self._url, self._bodies[place])
        except (httpx.HTTPError, AssertionError, ValueError) as error:
            self._note(-1, f"{type(error).__name__}: {error}")
        else:
            self._note(-1, "" if text == self._expected[place] else f"wrong text for {place}: {text}")

    def _note(self, change: int, failure: str = "") -> None:
        with self._news:
            self.num_in_flight += change
            self.num_answers += change < 0 and not failure
            if failure:
                self.failures.append(failure)
            self._news.notify_all()

    def assert_all_right(self) -> None:
        """Not one failed request, not one wrong text."""
        assert not self.failures, collections.Counter(self.failures).most_common(5)
