"""Clients that leave, and clients that stay without reading."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx
import pytest

from gateway.http.clients import Clients
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


@pytest.mark.parametrize("num_bytes_read", [0, 1])
async def test_a_client_that_reads_nothing_or_byte_by_byte_is_aborted_and_harms_nobody(
    make_scene: MakeScene, num_bytes_read: int
) -> None:
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
            if num_bytes_read:
                await loop.sock_recv(stuck, num_bytes_read)
            await scene.pipeline.detokenizer.node.data.flush()

    assert aborted.result().key == job.key
    other = await scene.post("/generate", ASK | {"sampling_params": {"max_new_tokens": 3}})
    assert other.json()["text"] == text_of(3)
    assert "millrace_gateway_stuck_clients_total 1.0" in (await scene.http.get("/metrics")).text
    stuck.close()


@pytest.mark.parametrize(
    "sent", [b"", b"POST /generate HTTP/1.1\r\nHost", b"PUT /generate HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
)
async def test_a_client_that_does_not_finish_its_request_loses_its_connection(
    make_scene: MakeScene, sent: bytes
) -> None:
    scene = await make_scene(client_timeout=0.2)
    url = httpx.URL(scene.service.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert "millrace_gateway_stuck_clients_total 0.0" in (await scene.http.get("/metrics")).text


class StillClient:
    """A connection whose numbers the test sets."""

    def __init__(self, behind_since: float, num_unsent_bytes: int) -> None:
        self.behind_since = behind_since
        self.waits_since = 0.0
        self.num_unsent_bytes = num_unsent_bytes
        self.is_cut = self.is_refused = False

    def cut(self) -> None:
        self.is_cut = True

    def refuse(self) -> None:
        self.is_refused = True

    def finish(self, grace_s: float) -> None:
        raise AssertionError("nobody drains here")


class Stuck:
    """Counts."""

    num_clients = 0

    def count_stuck_client(self) -> None:
        self.num_clients += 1


def test_a_client_may_be_behind_for_as_long_as_it_goes_on_reading() -> None:
    stuck = Stuck()
    clients = Clients(30.0, stuck, max_connections=9)
    client = StillClient(behind_since=100.0, num_unsent_bytes=1000)
    clients.enter(client)
    for second in range(101, 1000):
        client.num_unsent_bytes -= second % 29 == 0
        clients.look(float(second))
    last_read = 986.0
    clients.look(last_read + 30)
    assert not client.is_cut
    clients.look(last_read + 31)
    assert client.is_cut
    assert stuck.num_clients == 1


def test_beyond_the_most_connections_new_ones_are_refused() -> None:
    clients = Clients(30.0, Stuck(), max_connections=2)
    connections = [StillClient(0.0, 0) for _ in range(4)]
    for connection in connections[:3]:
        clients.enter(connection)
    for connection in connections[1:3]:
        clients.leave(connection)
    clients.enter(connections[3])
    assert [connection.is_refused for connection in connections] == [False, False, True, False]
