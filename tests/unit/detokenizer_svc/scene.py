"""A detokenizer in this process, with a worker and gateways around it: real connections to a real broker."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from detokenizer_svc.service import DetokenizerService
from detokenizer_svc.settings import DetokenizerSettings
from detokenizer_svc.tokenizer_file import load_vocabulary
from tests.unit.detokenizer_svc import tiny_tokenizers as tiny
from tests.unit.inbox import Inbox
from wire import subjects
from wire.bus import Bus
from wire.codec import WIRE_LEVEL
from wire.messages import Heartbeat, InstanceState, Message, Peer, Stage
from wire.node import Node
from wire.settings import CommonSettings

T = TypeVar("T")
_PATIENCE_S = 10.0


class Scene:
    """Who is on stage. Everything that the peers get lands in their inboxes, everything public in `public`."""

    def __init__(self, service: DetokenizerService, node: Node, bus: Bus) -> None:
        self.service = service
        self._node = node
        self.instance = node.instance
        self.bus = bus
        suffix = secrets.token_hex(4)
        self.worker = Peer(f"worker-{suffix}", 1)
        self.gateway = Peer(f"gateway-{suffix}", 1)
        self.at_worker, self.at_gateway, self.public = Inbox(), Inbox(), Inbox()

    @property
    def model_key(self) -> str:
        return self.instance.model_key

    async def begin(self) -> None:
        await self.bus.subscribe(subjects.gateway(self.gateway.instance_id), self.at_gateway.receive)
        control = subjects.control(self.model_key, Stage.WORKER, self.worker.instance_id)
        await self.bus.subscribe(control, self.at_worker.receive)
        me = subjects.presence(Stage.DETOKENIZER, self.instance.instance_id)
        await self.bus.subscribe(me, self.public.receive)
        await self.bus.flush()

    async def send(self, message: Message) -> None:
        """To the detokenizer's data subject, as a worker does."""
        await self.bus.publish(self.data_subject, message)

    @property
    def data_subject(self) -> str:
        return subjects.data(self.model_key, Stage.DETOKENIZER, self.instance.instance_id)

    @property
    def control_subject(self) -> str:
        return subjects.control(self.model_key, Stage.DETOKENIZER, self.instance.instance_id)

    async def beat(self, stage: Stage, peer: Peer, state: InstanceState = InstanceState.READY) -> None:
        """A heartbeat of one of the peers."""
        heartbeat = Heartbeat(stage=stage, peer=peer, state=state, served_model_name="tiny", wire_level=WIRE_LEVEL)
        await self.bus.publish(subjects.presence(stage, peer.instance_id), heartbeat)

    def sample(self, name: str) -> float | None:
        """A value of the detokenizer's metrics page."""
        return self._node.registry.get_sample_value(name)

    async def until_held(self, num_states: int) -> None:
        """Returns when a heartbeat from now on tells that the detokenizer holds this many streams."""
        known = len(self.public.messages)
        await self.public.wait_for(
            Heartbeat,
            lambda beat: (
                beat.num_states == num_states and any(beat is message for message in self.public.messages[known:])
            ),
        )


@asynccontextmanager
async def playing(
    nats_url: str, folder: Path, *, kind: str = "byte_level", drain_timeout_s: float = 5.0, otlp_endpoint: str = ""
) -> AsyncIterator[Scene]:
    """A started detokenizer with peers that listen."""
    file = folder / "tokenizer.json"
    tiny.ALL[kind]().save(str(file))
    common = CommonSettings(nats_url=nats_url, otlp_endpoint=otlp_endpoint)
    settings = DetokenizerSettings(model_path=str(folder), served_model_name="tiny")
    node = await Node.connect(common, Stage.DETOKENIZER, settings.model_name)
    peers = await Node.connect(common, Stage.WORKER, settings.model_name)
    service = DetokenizerService(node, settings, load_vocabulary(file), drain_timeout_s)
    scene = Scene(service, node, peers.data)
    try:
        await scene.begin()
        await service.start()
        yield scene
    finally:
        await service.close()
        await peers.close()
