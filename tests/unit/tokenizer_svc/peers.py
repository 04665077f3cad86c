"""A gateway and workers as a tokenizer meets them: real connections to a real broker, and nothing behind them."""

import asyncio
import threading

from tests.unit.inbox import Inbox
from tests.unit.tokenizer_svc.jobs import MODEL_NAME
from tokenizer_svc.lanes import EncodingLanes
from wire.messages import Peer, Stage
from wire.node import Node
from wire.settings import CommonSettings

_PATIENCE_S = 10.0


class FakeInstance:
    """A stage's identity and connections without its work."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.inbox = Inbox()

    @classmethod
    async def connect(cls, nats_url: str, stage: Stage) -> "FakeInstance":
        """Connected, not yet seen by anybody."""
        return cls(await Node.connect(CommonSettings(nats_url=nats_url), stage, MODEL_NAME))

    @property
    def peer(self) -> Peer:
        """Its identity."""
        return self.node.instance.peer

    async def listen(self, subject: str) -> None:
        """Collects what is sent to the subject."""
        await self.node.data.subscribe(subject, self.inbox.receive)
        await self.node.data.flush()


class Plug:
    """Occupies the one thread for ordinary prompts, so that a request stays held as long as a test needs it."""

    def __init__(self, lanes: EncodingLanes) -> None:
        self._lanes = lanes
        self._is_pulled = threading.Event()
        self._is_in = threading.Event()
        self._tasks: list[asyncio.Task[bool]] = []

    async def push(self) -> None:
        """Returns when the thread is occupied."""
        self._tasks.append(asyncio.create_task(self._lanes.run(1 << 14, self._block)))
        assert await asyncio.to_thread(self._is_in.wait, _PATIENCE_S)

    def pull(self) -> None:
        """Lets the thread go on."""
        self._is_pulled.set()

    def _block(self) -> bool:
        self._is_in.set()
        return self._is_pulled.wait(_PATIENCE_S)
