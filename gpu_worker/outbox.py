"""Everything that a worker publishes: rows to the detokenizers, word to the gateways."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from gpu_worker import progress
from gpu_worker.held_requests import HeldRequest, HeldRequests
from gpu_worker.result_router import ResultRouter
from gpu_worker.token_rows import MAX_BATCH_BYTES
from wire import subjects
from wire.bus import MessageTooLargeError
from wire.columns import pack_u64
from wire.messages import ErrorCode, Failed, Message, Peer, Released, Stage
from wire.node import Node

log = logging.getLogger(__name__)


class Outbox:
    """Publishes in the background what the engine's results left in the channels."""

    def __init__(self, node: Node, held: HeldRequests, router: ResultRouter) -> None:
        self._node = node
        self._held = held
        self._router = router
        self._sending = asyncio.Lock()  # a drain sends too, and batches keep their order
        self._has_rows = asyncio.Event()
        self._has_changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def _peer(self) -> Peer:
        return self._node.instance.peer

    def rows_are_due(self) -> None:
        """Wakes the sender: there are rows, or room for them."""
        self._has_rows.set()
        self._has_changed.set()

    async def send_rows_forever(self) -> None:
        """Sends rows as they come."""
        while True:
            await self._has_rows.wait()
            self._has_rows.clear()
            await self.send_rows()

    async def send_rows(self) -> None:
        """Sends what the channels may send now; what the connection loses, recovery sends again.

        While there is no connection the rows stay where they are, and grow.
        """
        if not self._node.data.is_connected:
            return
        model = self._node.instance.model_key
        max_bytes = min(MAX_BATCH_BYTES, self._node.data.max_payload // 2)  # sizes are estimated
        async with self._sending:
            for detokenizer, channel in list(self._router.channels.items()):
                subject = subjects.data(model, Stage.DETOKENIZER, detokenizer)
                for message in channel.take_messages(max_bytes):
                    if not await self._published(subject, message):
                        channel.forget_unacked()

    async def _published(self, subject: str, message: bytes) -> bool:
        try:
            return await self._node.data.publish_encoded(subject, message)
        except MessageTooLargeError as error:  # only an opening can be: its stream has a gap, the others go on
            log.error("a batch is lost: %s", error)
            return False

    async def until_settled(self, timeout_s: float) -> None:
        """Returns when the detokenizers have processed every row, or have been silent for too long.

        A worker that left before would seem to have lost the last rows, and they would be made again elsewhere.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._router.is_settled:
                    self._has_changed.clear()
                    await self._has_changed.wait()

    async def send_receipt(self, request: HeldRequest, queue_position: int | None) -> None:
        """Tells the gateway that its job has arrived."""
        await self._tell(request.job.gateway, progress.receipt(request, self._peer, queue_position))

    async def announce_suspect(self, request: HeldRequest) -> None:
        """Tells the gateway that its suspect is no longer waiting; when this returns, the broker has it."""
        await self.send_receipt(request, None)
        await self._node.control.flush_last_words()

    async def send_progress(self, queue_positions: Mapping[int, int]) -> None:
        """Tells every gateway how its requests stand."""
        for gateway, report in list(progress.reports(self._held, self._router.finished(), self._peer, queue_positions)):
            await self._tell(gateway, report)

    async def fail(self, gateway: Peer, key: int, code: ErrorCode, message: str, *, is_retryable: bool) -> None:
        """The one terminal message of a request that this worker will not finish."""
        failed = Failed(key=key, sender=self._peer, code=code, message=message, is_retryable=is_retryable)
        await self._tell(gateway, failed)

    def fail_soon(self, gateway: Peer, key: int, code: ErrorCode, message: str, *, is_retryable: bool) -> None:
        """`fail` for callers that cannot wait."""
        task = asyncio.create_task(self.fail(gateway, key, code, message, is_retryable=is_retryable))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def release(self, gateway: Peer, keys: list[int], reason: str) -> None:
        """Hands requests back."""
        await self._tell(gateway, Released(self._peer, pack_u64(keys), reason))

    async def _tell(self, gateway: Peer, message: Message) -> None:
        await self._node.control.publish(subjects.gateway(gateway.instance_id), message)
