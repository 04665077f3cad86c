"""A gateway and workers as a tokenizer meets them: real connections to a real broker, and nothing behind them."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from tests.unit.tokenizer_svc.jobs import MODEL_NAME
from tokenizer_svc.lanes import EncodingLanes
from wire.bus import Delivery
from wire.messages import Message, Peer, Stage
from wire.node import Node
from wire.settings import CommonSettings

T = TypeVar("T")
_PATIENCE_S = 10.0


class Inbox:
    """What a peer has received, in order of arrival."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.deliveries: list[Delivery] = []
        self._arrived = asyncio.Condition()

    async def receive(self, message: Message, delivery: Delivery) -> None:
        """The handler of a subscription."""
        async with self._arrived:
            self.messages.append(message)
            self.deliveries.append(delivery)
            self._arrived.notify_all()

    async def wait_for(self, kind: type[T], accept: Callable[[T], bool] = lambda _: True) -> T:
        """The first message of a kind that is accepted; waits for it."""
        async with asyncio.timeout(_PATIENCE_S), self._arrived:
            while True:
                for message in self.of(kind):
                    if accept(message):
                        return message
                await self._arrived.wait()

    async def wait_until(self, condition: Callable[["Inbox"], bool]) -> None:
        """Returns when the condition holds, which is looked at after every arrival."""
        async with asyncio.timeout(_PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: condition(self))

    def of(self, kind: type[T]) -> list[T]:
        """All messages of a kind so far."""
        return [message for message in self.messages if isinstance(message, kind)]


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
