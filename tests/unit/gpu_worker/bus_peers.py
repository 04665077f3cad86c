"""Plays the other stages for a worker under test: sends jobs, gathers what the worker publishes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from gpu_worker.engine_host import EngineHost, HostedEngine, LoadedModel
from gpu_worker.service import WorkerLimits, WorkerService
from gpu_worker.step_log import StepLog
from gpu_worker.worker_metrics import WorkerMetrics
from wire import subjects
from wire.bus import Bus, Delivery
from wire.columns import pack_u32
from wire.login import BusOptions
from wire.messages import (
    GenerateJob,
    InstanceState,
    Message,
    Peer,
    SequenceStart,
    Stage,
    StreamSettings,
    TokenBatch,
)
from wire.metrics import BusMetrics
from wire.node import Node
from wire.sampling import SamplingParams
from wire.settings import CommonSettings

GATEWAY = Peer("gateway-test", 1)
TOKENIZER = Peer("tokenizer-test", 1)
DETOKENIZER = Peer("detokenizer-test", 1)

M = TypeVar("M")


@dataclass(slots=True, eq=False)
class Mailbox:
    """Messages in order of arrival, awaitable by condition."""

    messages: list[Message] = field(default_factory=list)
    _has_more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, message: Message, _: Delivery) -> None:
        async with self._has_more:
            self.messages.append(message)
            self._has_more.notify_all()

    async def until(self, is_enough: Callable[[list[Message]], bool]) -> None:
        """Returns when the messages so far satisfy the condition."""
        async with asyncio.timeout(10), self._has_more:
            await self._has_more.wait_for(lambda: is_enough(self.messages))

    async def first(self, kind: type[M], where: Callable[[M], bool] = lambda _: True) -> M:
        """The first message of this kind for which `where` holds."""
        await self.until(lambda messages: any(isinstance(m, kind) and where(m) for m in messages))
        return next(m for m in self.messages if isinstance(m, kind) and where(m))

    def batches(self) -> list[TokenBatch]:
        return [message for message in self.messages if isinstance(message, TokenBatch)]


@dataclass(slots=True, eq=False)
class WorkerUnderTest:
    """A real worker service over a real bus, and its peers' mailboxes."""

    service: WorkerService
    node: Node
    bus: Bus
    gateway: Mailbox
    detokenizer: Mailbox

    @property
    def peer(self) -> Peer:
        return self.node.instance.peer

    async def send_job(self, job: GenerateJob) -> None:
        await self.bus.publish(self._subject(subjects.data), job)

    async def send_control(self, message: Message) -> None:
        await self.bus.publish(self._subject(subjects.control), message)

    async def ask(self, message: Message) -> Message:
        return await self.bus.request(self._subject(subjects.rpc), message, timeout_s=5)

    def _subject(self, kind: Callable[[str, Stage, str], str]) -> str:
        return kind(self.node.instance.model_key, Stage.WORKER, self.peer.instance_id)


@asynccontextmanager
async def running_worker(
    nats_url: str, engine: HostedEngine, *, drain_timeout_s: float = 5.0, stall_timeout_s: float = 60.0
) -> AsyncIterator[WorkerUnderTest]:
    """A ready worker around `engine`; its model name is its own, so that tests do not hear each other."""
    name = f"model-of-{id(engine)}"
    node = await Node.connect(CommonSettings(nats_url=nats_url), Stage.WORKER, name)
    loaded = LoadedModel(engine, "fingerprint", 1024, 16, {"model_path": "synthetic"})
    host = EngineHost(lambda: loaded, lambda error: None)
    metrics = WorkerMetrics(node.registry)
    service = WorkerService(
        node, host, metrics, WorkerLimits(drain_timeout_s, stall_timeout_s, 77.0), StepLog(), {"page_size": 16}
    )
    bus = await Bus.connect(BusOptions(url=nats_url), "peers", BusMetrics(CollectorRegistry()))
    gateway, detokenizer = Mailbox(), Mailbox()
    await bus.subscribe(subjects.gateway(GATEWAY.instance_id), gateway.receive)
    await bus.subscribe(
        subjects.data(node.instance.model_key, Stage.DETOKENIZER, DETOKENIZER.instance_id), detokenizer.receive
    )
    await bus.flush()
    await service.start()
    node.instance.state = InstanceState.READY
    await service.announce()
    try:
        yield WorkerUnderTest(service, node, bus, gateway, detokenizer)
    finally:
        await bus.close()
        await service.close()


def job(key: int, *, max_new_tokens: int = 5, starts: tuple[SequenceStart, ...] = (SequenceStart(0),)) -> GenerateJob:
    """A job of three prompt tokens."""
    prompt = pack_u32([5, 6, 7])
    return GenerateJob(
        key=key,
        request_id=f"request-{key}",
        attempt=1,
        tokenizer=TOKENIZER,
        gateway=GATEWAY,
        detokenizer=DETOKENIZER,
        prompt_ids=prompt,
        sampling=SamplingParams(max_new_tokens=max_new_tokens, n=len(starts)),
        sequences=starts,
        stream=StreamSettings(
            gateway=GATEWAY, request_id=f"request-{key}", prompt_tail=prompt, num_sequences=len(starts)
        ),
    )


def resampled(original: GenerateJob, sampling: SamplingParams) -> GenerateJob:
    """The same job with other parameters."""
    return msgspec.structs.replace(original, sampling=sampling)
