"""One tokenizer over a real broker, with a gateway and a worker that only listen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.unit.tokenizer_svc.jobs import MODEL_NAME, heartbeat, job
from tests.unit.tokenizer_svc.peers import FakeInstance, Plug
from tokenizer_svc.lanes import EncodingLanes
from tokenizer_svc.served_model import ServedModel
from tokenizer_svc.service import TokenizerService
from wire import subjects
from wire.codec import encode
from wire.messages import Abort, Description, InstanceState, Message, Prompt, Stage, TokenizeJob
from wire.node import Node
from wire.settings import CommonSettings

QUEUED = "the capital of Italy " * 100  # long enough for a thread, and for the lane that a test has plugged
MODEL_KEY = subjects.model_key(MODEL_NAME)


@dataclass(slots=True, eq=False)
class Scene:
    """One tokenizer, one gateway, one worker. `plug` holds up every prompt that is not tiny."""

    node: Node
    service: TokenizerService
    gateway: FakeInstance
    worker: FakeInstance
    plug: Plug

    @property
    def instance_id(self) -> str:
        return self.node.instance.instance_id

    async def send(self, key: int, prompt: Prompt | str = "the capital", **fields: Any) -> TokenizeJob:
        message = job(key, prompt, gateway=self.gateway.peer, **fields)
        await self.send_raw(message)
        return message

    async def send_raw(self, message: Message, headers: dict[str, str] | None = None) -> None:
        subject = subjects.data(MODEL_KEY, Stage.TOKENIZER, self.instance_id)
        await self.gateway.node.data.publish_encoded(subject, encode(message), headers=headers)

    async def abort(self, key: int, choice: int | None = None) -> None:
        subject = subjects.control(MODEL_KEY, Stage.TOKENIZER, self.instance_id)
        await self.gateway.node.control.publish(subject, Abort(self.gateway.peer, key, choice))
        await self.gateway.node.control.flush()
        await self.node.control.flush()

    async def ask(self, question: Message) -> Message:
        subject = subjects.rpc(MODEL_KEY, Stage.TOKENIZER, self.instance_id)
        return await self.gateway.node.data.request(subject, question, timeout_s=5)

    def ghost(self, instance_id: str, **fields: Any) -> None:
        """A worker that beats once and listens to nothing, as one that has just been killed."""
        self.node.members.hear(heartbeat(Stage.WORKER, instance_id, **fields))


@asynccontextmanager
async def playing(nats_url: str, model: ServedModel, **common: Any) -> AsyncIterator[Scene]:
    gateway = await FakeInstance.connect(nats_url, Stage.GATEWAY)
    worker = await FakeInstance.connect(nats_url, Stage.WORKER)
    await gateway.listen(subjects.gateway(gateway.peer.instance_id))
    await worker.listen(subjects.data(MODEL_KEY, Stage.WORKER, worker.peer.instance_id))
    lanes = EncodingLanes(1)
    # The peers beat once, so nobody may be declared dead because the machine is slow.
    settings = CommonSettings(nats_url=nats_url, heartbeat_timeout=600, **common)
    node = await Node.connect(settings, Stage.TOKENIZER, MODEL_NAME)
    service = TokenizerService(node, model, lanes, Description(settings={"a": 1}), drain_timeout_s=0.2)
    await service.start()
    node.instance.state = InstanceState.READY
    for instance in (gateway, worker):
        node.members.hear(heartbeat(instance.node.instance.stage, instance.peer.instance_id, model_fingerprint="fp"))
    plug = Plug(lanes)
    try:
        yield Scene(node, service, gateway, worker, plug)
    finally:
        plug.pull()
        await service.close()
        await gateway.node.close()
        await worker.node.close()
