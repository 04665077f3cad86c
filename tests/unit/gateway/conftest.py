"""A real gateway on a real socket, between a real client and scripted stages on a real broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from gateway.http.api_keys import ApiKeys
from gateway.service import GatewayService
from gateway.settings import GatewaySettings
from tests.unit.gateway.scripted import ScriptedPipeline, ScriptedStage
from wire.messages import InstanceState, Stage
from wire.node import Node
from wire.settings import CommonSettings


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a test of the gateway's outside needs."""

    service: GatewayService
    node: Node
    pipeline: ScriptedPipeline
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI

    async def post(self, path: str, body: Any, **keywords: Any) -> httpx.Response:
        """A JSON body to a path."""
        return await self.http.post(path, json=body, **keywords)

    async def lose(self, stage: ScriptedStage) -> None:
        """The instance leaves; returns when the gateway knows."""
        lost = asyncio.Event()
        self.node.members.on_lost.append(lambda *_: lost.set())
        await stage.leave()
        async with asyncio.timeout(5):
            await lost.wait()

    async def hang(self, worker: ScriptedStage) -> None:
        """The worker says that it hangs in a step; returns when the gateway knows."""
        await worker.beat(step_age_s=61.0)
        async with asyncio.timeout(5):
            while (await self.http.get("/health")).status_code == 200:
                pass

    async def post_stream(self, path: str, body: Any) -> list[str]:
        """The events' data of a stream, in order."""
        async with self.http.stream("POST", path, json=body) as response:
            assert response.headers["content-type"] == "text/event-stream"
            return [line.removeprefix("data: ") async for line in response.aiter_lines() if line]


MakeScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def make_scene(nats_url: str) -> AsyncIterator[MakeScene]:
    """Builds a scene with the given gateway settings, common settings, and fields of the worker's heartbeat."""
    async with AsyncExitStack() as stack:

        async def make(
            *, common: dict[str, Any] | None = None, worker_beat: dict[str, Any] | None = None, **settings: Any
        ) -> Scene:
            model = f"scripted/{uuid.uuid4().hex}"
            pipeline = await ScriptedPipeline.join(nats_url, model, worker_beat or {})
            stack.push_async_callback(pipeline.leave)
            shared = CommonSettings(nats_url=nats_url, **(common or {}))
            own = GatewaySettings(port=0, served_model_name=model, **settings)
            node = await Node.connect(shared, Stage.GATEWAY, model)
            service = GatewayService(node, shared, own, ApiKeys.read(own.api_key, own.api_key_file))
            stack.push_async_callback(service.close)
            await service.start()
            async with asyncio.timeout(10):
                await service.is_complete.wait()
            node.instance.state = InstanceState.READY
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=service.url, timeout=20))
            client = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=own.api_key or "none", max_retries=0)
            stack.push_async_callback(client.close)
            return Scene(service, node, pipeline, http, client)

        yield make


@pytest.fixture
async def scene(make_scene: MakeScene) -> Scene:
    """The scene with default settings."""
    return await make_scene()
