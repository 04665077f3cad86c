"""Questions to this worker that are no jobs: what it runs with, and whether it will forget its cached prefixes."""

import asyncio
from typing import Any

from gpu_worker import self_report
from gpu_worker.engine_host import EngineHost
from gpu_worker.held_requests import HeldRequests
from gpu_worker.step_log import StepLog
from wire.bus import Delivery
from wire.messages import Describe, Description, FlushCache, FlushCacheReply, Message
from wire.node import Node


class Questions:
    """Answers each to whoever asked; what nobody waits for is ignored."""

    def __init__(
        self,
        node: Node,
        host: EngineHost,
        held: HeldRequests,
        step_log: StepLog,
        settings: dict[str, Any],
        is_idle: asyncio.Event,
    ) -> None:
        """`settings` is what `Describe` shows; `is_idle` is set while nothing is held."""
        self._node = node
        self._host = host
        self._held = held
        self._step_log = step_log
        self._settings = settings
        self._is_idle = is_idle

    async def answer(self, message: Message, delivery: Delivery) -> None:
        """Takes one in."""
        if not delivery.reply_to:
            return
        if isinstance(message, FlushCache):  # it may wait, and the next question must not
            self._node.background.start(self._flush_cache(message.timeout_s, delivery.reply_to))
        elif isinstance(message, Describe):
            loaded = self._host.loaded
            model = loaded.description if loaded else {}
            stats = self_report.stats(self._host, self._held, self._step_log)
            reply = Description(settings=self._settings, model=model, stats=stats)
            await self._node.control.publish(delivery.reply_to, reply)

    async def _flush_cache(self, timeout_s: float, reply_to: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_idle.wait()
        except TimeoutError:
            reply = FlushCacheReply(False, f"{len(self._held)} requests are running or waiting")
        else:
            is_flushed = await self._host.flush_prefix_cache()
            reply = FlushCacheReply(is_flushed, "" if is_flushed else "requests are running or waiting")
        await self._node.control.publish(reply_to, reply)
