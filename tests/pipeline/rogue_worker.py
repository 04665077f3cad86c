"""A worker that joins a real system and answers every request with one batch, which its script has changed."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

from wire import subjects
from wire.bus import Delivery
from wire.codec import WIRE_LEVEL
from wire.columns import pack_u8, pack_u32, pack_u64
from wire.messages import (
    FinishReason,
    GenerateJob,
    Heartbeat,
    InstanceState,
    Message,
    Progress,
    RequestState,
    Stage,
    StreamFinish,
    StreamOpen,
    TokenBatch,
)
from wire.node import Node
from wire.presence import HEARTBEAT_INTERVAL_S
from wire.settings import CommonSettings

Script = Callable[[TokenBatch], TokenBatch]
"""What becomes of the batch that an honest worker would send."""


class RogueWorker:
    """Runs on a thread of its own. A request's id names its script; one without is served honestly."""

    def __init__(self, nats_url: str, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts
        self._num_batches = 0
        self._gateways: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._node: Node = self._run(self._join(nats_url))

    @property
    def instance_id(self) -> str:
        """Its random id."""
        return self._node.instance.instance_id

    def leave(self) -> None:
        """Says goodbye, and ends the thread."""
        self._run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _join(self, nats_url: str) -> Node:
        self._node = node = await Node.connect(CommonSettings(nats_url=nats_url), Stage.WORKER, "demo")
        subject = subjects.data(node.instance.model_key, Stage.WORKER, node.instance.instance_id)
        await node.data.subscribe(subject, self._on_job)
        await node.data.flush()
        node.instance.state = InstanceState.READY
        self._presence = node.presence(self._heartbeat)
        await self._presence.start()
        node.background.start(self._report_forever())
        return node

    async def _leave(self) -> None:
        self._node.instance.state = InstanceState.LEAVING
        await self._presence.announce()
        await self._presence.stop()
        await self._node.background.stop()
        await self._node.close()

    async def _on_job(self, message: Message, _: Delivery) -> None:
        assert isinstance(message, GenerateJob)
        self._num_batches += 1
        self._gateways.add(message.gateway.instance_id)
        await self._report(message.key, is_receipt=True)
        subject = subjects.data(self._node.instance.model_key, Stage.DETOKENIZER, message.detokenizer.instance_id)
        script = self._scripts.get(message.request_id, lambda honest: honest)
        await self._node.data.publish(subject, script(self._honest(message)))

    async def _report(self, *keys: int, is_receipt: bool = False) -> None:
        """Holds these requests, and no others."""
        progress = Progress(
            sender=self._node.instance.peer,
            keys=pack_u64(keys),
            states=pack_u8([RequestState.RUNNING] * len(keys)),
            queue_positions=pack_u32([0] * len(keys)),
            num_output_tokens=pack_u32([0] * len(keys)),
            is_receipt=is_receipt,
        )
        for gateway in self._gateways:
            await self._node.control.publish(subjects.gateway(gateway), progress)

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            await self._report()

    def _honest(self, job: GenerateJob) -> TokenBatch:
        """Three tokens of the first sequence, and its opening."""
        start = job.sequences[0]
        opened = StreamOpen(
            stream_id=self._num_batches,
            key=job.key,
            choice=start.choice,
            settings=job.stream,
            output_ids=start.output_ids,
            text_len=start.text_len,
            num_prompt_tokens=len(job.prompt_ids) // 4,
        )
        return TokenBatch(
            worker=self._node.instance.peer,
            batch_seq=self._num_batches,
            stream_ids=pack_u32([opened.stream_id]),
            first_indexes=pack_u32([len(start.output_ids) // 4]),
            counts=pack_u32([3]),
            token_ids=pack_u32([10, 11, 12]),
            opens=(opened,),
            finishes=(StreamFinish(0, FinishReason.LENGTH, None, opened.num_prompt_tokens, 3, 0, 1, 2, 3, 4),),
        )

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            stage=Stage.WORKER,
            peer=self._node.instance.peer,
            state=self._node.instance.state,
            served_model_name="demo",
            wire_level=WIRE_LEVEL,
            model_fingerprint="0123456789abcdef",
            context_length=4096,
            step_timeout_s=60.0,
        )
