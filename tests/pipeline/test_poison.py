"""A request that makes every worker crash fails after three of them, and takes nobody along."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from launcher.keeper import Keeper, RestartPolicy, kept
from launcher.processes import ProcessSpec
from tests.pipeline.fragile_worker import DECODE_POISON, LAST_WORDS, POISON
from tests.pipeline.process import environment, python_module
from tests.pipeline.streams import Stream
from tests.pipeline.system import System, running_system
from tests.unit.launcher.children import Recorder
from wire.messages import InstanceState, Stage

NUM_WORKERS = 3
NUM_TOKENS = 96
_RESTARTS = RestartPolicy(first_delay_s=0.1, max_delay_s=0.1)


def body(number: int) -> dict[str, Any]:
    """What an innocent client asks for."""
    prompt = ("The capital of France is", "Grüße an 世界 😀", "List 3 countries")[number % 3]
    sampling = {"max_new_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0}
    return {"text": f"{number}: {prompt}", "sampling_params": sampling}


@asynccontextmanager
async def fragile_workers(system: System, recorder: Recorder) -> AsyncIterator[None]:
    """Workers that die of the poison, and are started again whenever they do."""
    environ = environment(
        os.environ,
        nats_url=system.nats_url,
        exit_on_stdin_eof=True,
        device="cpu",
        dtype="float64",
        num_threads=1,
        max_total_tokens=16384,
    )
    command = tuple(python_module("tests.pipeline.fragile_worker"))
    keepers = [
        Keeper(
            name,
            lambda name=name: ProcessSpec(name, command, environ),
            recorder.show,
            lambda line: "is ready" in line,
            _RESTARTS,
        )
        for name in (f"worker-{number}" for number in range(NUM_WORKERS))
    ]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(kept(keeper, 30)) for keeper in keepers))
        yield


def wait_for_workers(system: System) -> None:
    """Until all say that they take work."""
    system.observer.wait_until(
        lambda beats: (
            sum(beat.stage is Stage.WORKER and beat.state is InstanceState.READY for beat in beats.values())
            == NUM_WORKERS
        ),
        f"{NUM_WORKERS} workers are ready",
    )


def crashes(recorder: Recorder) -> list[int]:
    """Of each crash: how many sequences were in its step."""
    found = (re.search(rf"{LAST_WORDS} (\d+)", text) for _, text in recorder.lines)
    return [int(match[1]) for match in found if match]


@pytest.mark.parametrize(("poison", "num_shared"), [(POISON, 1), (DECODE_POISON, 2)])
async def test_a_poisonous_request_fails_after_three_crashes_and_every_innocent_stream_is_complete(
    tmp_path: Path, poison: int, num_shared: int
) -> None:
    recorder = Recorder()
    with running_system(tmp_path, workers=0) as system:
        async with fragile_workers(system, recorder):
            await asyncio.to_thread(among_innocent_streams, system, poison)
    sizes = crashes(recorder)
    assert len(sizes) == 3
    assert sizes[num_shared:] == [1] * (3 - num_shared), "it is alone as soon as it is a suspect"


def among_innocent_streams(system: System, poison: int) -> None:
    """The poison comes while some streams run, and others begin."""
    wait_for_workers(system)
    expected = [Stream(system.url, body(number)).result() for number in range(16)]
    assert not any(poison in result["output_ids"] for result in expected)
    streams = [Stream(system.url, body(number)) for number in range(8)]
    for stream in streams:
        stream.wait_for_tokens(10)
    asked = {"input_ids": [5, poison, 6], "sampling_params": {"max_new_tokens": 64, "ignore_eos": True}}
    streams += [Stream(system.url, body(number)) for number in range(8, 16)]
    answer = requests.post(f"{system.url}/generate", json=asked, timeout=120)
    assert answer.status_code == 500
    assert "3 times in a row" in answer.json()["message"]
    for stream, undisturbed in zip(streams, expected, strict=True):
        result = stream.result()
        assert result["output_ids"] == undisturbed["output_ids"]
        assert result["text"] == undisturbed["text"]
