"""Ten times more than there is room for: refused at once and before any work, while the rest goes on."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import requests

from tests.pipeline.streams import Stream
from tests.pipeline.system import System, running_system
from wire.messages import Stage

NUM_RUNNING = 4
NUM_QUEUED = 8
NUM_OFFERED = 10 * (NUM_RUNNING + NUM_QUEUED)
SHORT: dict[str, Any] = {"text": "Tell", "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Little room, and all of it bounded."""
    with running_system(
        tmp_path_factory.mktemp("small"),
        gateway={"max_queued_requests": NUM_QUEUED},
        worker={"max_running_requests": NUM_RUNNING},
    ) as running:
        yield running


def long_body(number: int) -> dict[str, Any]:
    """Runs until it is aborted."""
    return {
        "text": "Tell",
        "rid": f"long-{number}",
        "sampling_params": {"max_new_tokens": 3500, "ignore_eos": True},
    }


def num_attempts(system: System) -> float:
    """Jobs that the gateway has handed on."""
    return sum(system.metrics("millrace_gateway_attempts_total").values())


class EndlessFlood:
    """Clients that ask again as soon as they are refused, each time on a new connection."""

    def __init__(self, url: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._address = urlsplit(url)
        self._news = asyncio.Condition()

    async def run(self) -> None:
        """Until it is cancelled."""
        await asyncio.gather(*(self._client() for _ in range(NUM_OFFERED)))

    async def _client(self) -> None:
        while True:
            status = await self._ask()
            async with self._news:
                self.statuses[status] += 1
                self._news.notify_all()

    async def _ask(self) -> int:
        body = json.dumps(SHORT)
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        try:
            writer.write(f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()

    async def answered(self, count: int) -> None:
        """Returns when so many more have been answered."""
        target = self.statuses.total() + count
        async with self._news:
            await self._news.wait_for(lambda: self.statuses.total() >= target)


async def probed_in_a_flood(url: str) -> dict[str, int]:
    """Asks what operators ask while the flood goes on; how many of its requests were answered before each of these."""
    overtaken_by = {}
    async with asyncio.timeout(120), httpx.AsyncClient(base_url=url, timeout=120) as client:
        flood = EndlessFlood(url)
        flooding = asyncio.create_task(flood.run())
        await flood.answered(NUM_OFFERED)
        for path in ("/health", "/metrics"):
            before = flood.statuses.total()
            assert (await client.get(path)).status_code == 200
            overtaken_by[path] = flood.statuses.total() - before
        await flood.answered(NUM_OFFERED)
        flooding.cancel()
        await asyncio.wait([flooding])
    assert flood.statuses.keys() == {429}
    return overtaken_by


async def flood(url: str, body: dict[str, Any], count: int) -> list[httpx.Response]:
    """All at once, each on a connection of its own."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=count)) as client:
        return await asyncio.gather(*(client.post(f"{url}/generate", json=body) for _ in range(count)))


def test_beyond_a_full_queue_everything_is_refused_before_any_work_and_the_rest_goes_on(small: System) -> None:
    running = [Stream(small.url, long_body(number)) for number in range(NUM_RUNNING)]
    for stream in running:
        stream.wait_for_tokens(1)
    waiting = [Stream(small.url, SHORT) for _ in range(NUM_QUEUED)]
    worker = small.one(Stage.WORKER).instance_id
    small.observer.wait_until(lambda beats: worker in beats and beats[worker].num_waiting == NUM_QUEUED, "a full queue")
    before, tokens = num_attempts(small), running[0].num_tokens

    answers = asyncio.run(flood(small.url, SHORT, NUM_OFFERED))
    assert {answer.status_code for answer in answers} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    overtaken_by = asyncio.run(probed_in_a_flood(small.url))
    assert max(overtaken_by.values()) < 10 * NUM_OFFERED, "nobody in the flood comes ten times before them"
    assert requests.get(f"{small.url}/health", timeout=60).status_code == 200
    assert requests.get(f"{small.url}/ready", timeout=60).status_code == 200
    assert num_attempts(small) == before
    running[0].wait_for_tokens(tokens + 20)

    requests.post(f"{small.url}/abort_request", json={"rid": "long-"}, timeout=60)
    for stream in waiting:
        assert stream.result()["meta_info"]["completion_tokens"] == 4
    for stream in running:
        assert stream.result()["meta_info"]["finish_reason"]["type"] == "abort"
    small.at_rest()


def test_a_burst_fills_the_room_that_there_is_and_no_more(small: System) -> None:
    answers = asyncio.run(flood(small.url, SHORT, NUM_OFFERED))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= NUM_QUEUED
    small.at_rest()


def test_a_thousand_requests_at_once_are_no_overload(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_system(tmp_path_factory.mktemp("default")) as system:
        answers = asyncio.run(flood(system.url, {"text": "Hi", "sampling_params": {"max_new_tokens": 1}}, 1000))
        assert {answer.status_code for answer in answers} == {200}
