"""Where encoding runs."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.unit.tokenizer_svc.jobs import chat
from tokenizer_svc.lanes import EncodingLanes, size_of
from wire.messages import TextPrompt, TokensPrompt

TINY, ORDINARY, LONG = 10, 10_000, 1_000_000


@pytest.fixture
def lanes() -> Iterator[EncodingLanes]:
    lanes = EncodingLanes(1)
    yield lanes
    lanes.close()


@pytest.mark.parametrize("num_bytes", [TINY, ORDINARY, LONG])
async def test_work_gives_its_result(lanes: EncodingLanes, num_bytes: int) -> None:
    assert await lanes.run(num_bytes, lambda: "done") == "done"


async def test_only_tiny_work_runs_on_the_event_loop(lanes: EncodingLanes) -> None:
    here = threading.get_ident()
    ran_here = [await lanes.run(size, threading.get_ident) == here for size in (TINY, ORDINARY, LONG)]
    assert ran_here == [True, False, False]


async def test_long_work_delays_no_ordinary_work(lanes: EncodingLanes) -> None:
    finish = threading.Event()
    long = asyncio.create_task(lanes.run(LONG, finish.wait))
    queued = asyncio.create_task(lanes.run(LONG, finish.wait))
    try:
        async with asyncio.timeout(5):
            assert await lanes.run(ORDINARY, lambda: 1) == 1
        assert not long.done()
    finally:
        finish.set()
    assert await long
    assert await queued


async def test_cancelled_work_that_waits_never_starts(lanes: EncodingLanes) -> None:
    finish = threading.Event()
    started: list[int] = []
    running = asyncio.create_task(lanes.run(ORDINARY, finish.wait))
    waiting = asyncio.create_task(lanes.run(ORDINARY, lambda: started.append(1)))
    await asyncio.sleep(0)  # lets both be queued
    waiting.cancel()
    await asyncio.wait([waiting])
    finish.set()
    assert await running
    assert await lanes.run(ORDINARY, lambda: list(started)) == []


def test_the_size_follows_what_there_is_to_encode() -> None:
    assert size_of(TextPrompt("x" * 100)) == 100
    assert size_of(chat("x" * 5000)) > 5000
    assert size_of(chat("x", tools=[{"description": "y" * 5000}])) > 5000
    assert size_of(TokensPrompt(b"1234" * 1000)) == 0
