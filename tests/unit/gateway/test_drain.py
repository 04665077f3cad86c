"""A gateway leaves: whoever is connected gets an answer to everything that it sends, and learns that it is the last."""

import asyncio
import socket
from typing import Any

import httpx

from tests.unit.gateway.conftest import MakeScene, Scene
from tests.unit.gateway.scripted import accept_only, answer_all, begin, generate
from wire.messages import InstanceState

ASK: dict[str, Any] = {"text": "x", "sampling_params": {"max_new_tokens": 3}}
ENOUGH_S = 60.0


def begin_to_drain(scene: Scene) -> "asyncio.Task[None]":
    scene.node.instance.state = InstanceState.DRAINING
    return asyncio.create_task(scene.service.drain())


async def test_a_draining_gateway_is_not_ready_and_finishes_what_it_has(make_scene: MakeScene) -> None:
    scene = await make_scene(drain_grace=0.2)
    scene.pipeline.script = accept_only
    running = asyncio.create_task(scene.post("/generate", ASK))
    job = await scene.pipeline.job_arrived.get()
    draining = begin_to_drain(scene)

    assert (await scene.http.get("/ready")).status_code == 503
    assert (await scene.http.get("/health")).status_code == 503
    assert not draining.done()
    await generate(scene.pipeline, job)
    answer = await running
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    await draining


async def test_the_next_request_on_an_open_connection_is_served_as_its_last(make_scene: MakeScene) -> None:
    scene = await make_scene(drain_grace=ENOUGH_S)
    assert "connection" not in (await scene.post("/generate", ASK)).headers
    draining = begin_to_drain(scene)
    await asyncio.sleep(0)

    answer = await scene.post("/generate", ASK)

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    draining.cancel()


async def test_a_stream_that_had_begun_leaves_room_for_one_request_more(make_scene: MakeScene) -> None:
    scene = await make_scene(drain_grace=ENOUGH_S)
    scene.pipeline.script = begin
    async with httpx.AsyncClient(base_url=scene.service.url, limits=httpx.Limits(max_connections=1)) as client:
        async with client.stream("POST", "/generate", json=ASK | {"stream": True}) as response:
            job = await scene.pipeline.job_arrived.get()
            draining = begin_to_drain(scene)
            scene.pipeline.script = answer_all
            await generate(scene.pipeline, job)
            await response.aread()
        answer = await client.post("/generate", json=ASK)
    assert answer.extensions["network_stream"] is response.extensions["network_stream"]
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    draining.cancel()


async def test_idle_connections_end_after_the_grace_and_then_nobody_is_let_in(make_scene: MakeScene) -> None:
    scene = await make_scene(drain_grace=0.1)
    url = httpx.URL(scene.service.url)
    silent_reader, silent_writer = await asyncio.open_connection(url.host, url.port)
    assert (await scene.post("/generate", ASK)).status_code == 200

    async with asyncio.timeout(20):
        await begin_to_drain(scene)
        assert await silent_reader.read() == b""

    silent_writer.close()
    with socket.socket() as late:
        assert late.connect_ex((url.host, url.port)) != 0
