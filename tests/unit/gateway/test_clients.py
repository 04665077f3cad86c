"""Clients that leave, and clients that stay without reading."""

import asyncio
import json
import socket
from typing import Any

import httpx

from tests.unit.gateway.conftest import MakeScene, Scene
from tests.unit.gateway.scripted import accept_only, answer_all, begin, text_of

ASK: dict[str, Any] = {"text": "x", "sampling_params": {"max_new_tokens": 1000}}


async def test_a_client_that_leaves_a_stream_aborts_its_request_everywhere(scene: Scene) -> None:
    scene.pipeline.script = begin
    async with scene.http.stream("POST", "/generate", json=ASK | {"stream": True}) as response:
        job = await scene.pipeline.job_arrived.get()
        await anext(response.aiter_lines())

    for stage in (scene.pipeline.worker, scene.pipeline.detokenizer):
        assert (await asyncio.wait_for(stage.aborts.get(), 5)).key == job.key


async def test_a_client_that_leaves_before_its_answer_aborts_too(scene: Scene) -> None:
    scene.pipeline.script = accept_only
    asking = asyncio.create_task(scene.post("/generate", ASK))
    job = await scene.pipeline.job_arrived.get()

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert (await asyncio.wait_for(scene.pipeline.worker.aborts.get(), 5)).key == job.key


async def test_a_client_that_reads_nothing_is_aborted_and_harms_nobody(make_scene: MakeScene) -> None:
    scene = await make_scene(client_timeout=0.5)
    scene.pipeline.script = begin
    url = httpx.URL(scene.service.url)
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    stuck.setblocking(False)
    await loop.sock_connect(stuck, (url.host, url.port))
    body = json.dumps(ASK | {"stream": True}).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    await loop.sock_sendall(stuck, head + body)
    job = await scene.pipeline.job_arrived.get()
    scene.pipeline.script = answer_all
    aborted = asyncio.create_task(scene.pipeline.worker.aborts.get())
    index = 1
    async with asyncio.timeout(30):
        while not aborted.done():
            await scene.pipeline.send(job, [(0, index, 100)])
            index += 100
            await scene.pipeline.detokenizer.node.data.flush()

    assert aborted.result().key == job.key
    other = await scene.post("/generate", ASK | {"sampling_params": {"max_new_tokens": 3}})
    assert other.json()["text"] == text_of(3)
    assert "millrace_gateway_stuck_clients_total 1.0" in (await scene.http.get("/metrics")).text
    stuck.close()
