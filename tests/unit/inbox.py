"""What a played peer receives over a real bus, awaitable by message and by condition."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from wire.bus import Delivery
from wire.messages import Message

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
