"""The story of a detokenizer: batches of ids come in from workers, batches of text go out to gateways."""

import asyncio
import logging
import time
from contextlib import suppress

from detokenizer_svc.acknowledgements import Acknowledgements
from detokenizer_svc.attempts import AttemptTable
from detokenizer_svc.batch_run import BatchProcessor, Outcome
from detokenizer_svc.forgotten import ForgottenWatch
from detokenizer_svc.hop_metrics import DetokenizerMetrics
from detokenizer_svc.hop_spans import HopSpans
from detokenizer_svc.settings import DetokenizerSettings
from detokenizer_svc.vocabulary import Vocabulary
from wire import subjects
from wire.bus import Delivery
from wire.codec import WIRE_LEVEL, encode
from wire.columns import pack_u64
from wire.messages import (
    Abort,
    BatchAck,
    Describe,
    Description,
    Heartbeat,
    Message,
    Peer,
    Released,
    Stage,
    TokenBatch,
)
from wire.node import Node
from wire.orphans import OrphanWatch
from wire.presence import Member
from wire.settings import public_values

log = logging.getLogger(__name__)

_ACK_INTERVAL_S = 0.1
_SWEEP_INTERVAL_S = 1.0


class DetokenizerService:
    """One detokenizer. Keeps a stream per sequence in flight, and nothing when none is."""

    def __init__(
        self,
        node: Node,
        settings: DetokenizerSettings,
        vocabulary: Vocabulary,
        drain_timeout_s: float,
        num_ids: int = 0,
    ) -> None:
        self._node = node
        self._instance = node.instance
        self._settings = settings
        self._vocabulary = vocabulary
        self._drain_timeout_s = drain_timeout_s
        model, me = self._instance.model_key, self._instance.instance_id
        self._data_subject = subjects.data(model, Stage.DETOKENIZER, me)
        self._metrics = DetokenizerMetrics(node.registry)
        spans = HopSpans(node.tracing, self._instance.served_model_name, self._data_subject)
        self._table = AttemptTable(spans)
        self._metrics.show_streams(node.registry, lambda: self._table.num_streams)
        self._processor = BatchProcessor(
            lambda: self._instance.peer, vocabulary, self._table, self._metrics, node.data.max_payload // 2, num_ids
        )
        self._acknowledgements = Acknowledgements()
        self._orphans = OrphanWatch(node.members)
        self._forgotten = ForgottenWatch()
        self._presence = node.presence(self._heartbeat)

    async def start(self) -> None:
        """Listens to workers, to aborts and to losses, then shows itself."""
        model, me = self._instance.model_key, self._instance.instance_id
        await self._node.data.subscribe(self._data_subject, self._on_batch)
        await self._node.control.subscribe(subjects.control(model, Stage.DETOKENIZER, me), self._on_abort)
        await self._node.control.subscribe(subjects.abort(model), self._on_abort)
        await self._node.control.subscribe(subjects.rpc(model, Stage.DETOKENIZER, me), self._on_describe)
        await self._node.data.flush()
        await self._node.control.flush()
        self._node.members.on_lost.append(self._on_lost)
        for bus in (self._node.data, self._node.control):
            bus.on_connection_change(lambda _: self._forgotten.was_away(self._table.attempts()))
        self._node.background.start(self._acknowledge_in_time())
        self._node.background.start(self._sweep())
        await self._presence.start()

    async def announce(self) -> None:
        """Tells the others of a change of state."""
        await self._presence.announce()

    async def drain(self) -> None:
        """Serves its streams to their end, for as long as it may; then hands them back to their gateways."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._table.is_empty.wait(), self._drain_timeout_s)
        await self._release()
        await self._node.data.flush_last_words()

    async def close(self) -> None:
        """Lets go of everything."""
        await self._node.background.stop()
        self._table.drop_all("closed")
        await self._node.close()

    async def _on_batch(self, message: Message, _: Delivery) -> None:
        if not isinstance(message, TokenBatch):
            return
        await self._send(self._processor.process(message, time.time_ns()), self._worker_control(message.worker))
        if self._acknowledgements.done(message.worker, message.batch_seq):
            await self._acknowledge(message.worker)

    async def _send(self, outcome: Outcome, worker_control: str) -> None:
        for gateway_id, texts in outcome.texts:
            await self._node.data.publish_encoded(subjects.gateway(gateway_id), encode(texts))
        for gateway_id, failed in outcome.failures:
            await self._node.data.publish(subjects.gateway(gateway_id), failed)
        for abort in outcome.aborts:
            await self._node.control.publish(worker_control, abort)

    async def _on_abort(self, message: Message, _: Delivery) -> None:
        if isinstance(message, Abort):
            self._table.abort(message.key, message.choice)

    async def _on_describe(self, message: Message, delivery: Delivery) -> None:
        if isinstance(message, Describe) and delivery.reply_to:
            await self._node.control.publish(delivery.reply_to, self._description())

    def _on_lost(self, member: Member, _: str) -> None:
        self._drop_peer(member.heartbeat.peer)

    def _drop_peer(self, peer: Peer) -> None:
        self._table.drop_gateway(peer)
        self._table.drop_worker(peer)

    async def _acknowledge(self, worker: Peer) -> None:
        batch_seq = self._acknowledgements.take(worker)
        if batch_seq is not None:  # else it was told while this process was sending to another one
            acknowledgement = BatchAck(self._instance.peer, worker, batch_seq)
            await self._node.control.publish(self._worker_control(worker), acknowledgement)

    async def _acknowledge_in_time(self) -> None:
        while True:
            await asyncio.sleep(_ACK_INTERVAL_S)
            for worker in self._acknowledgements.pending():
                await self._acknowledge(worker)

    async def _sweep(self) -> None:
        while True:
            slept_at = time.monotonic()
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            if time.monotonic() - slept_at - _SWEEP_INTERVAL_S > self._node.members.timeout_s:
                self._forgotten.was_away(self._table.attempts())
            for key in self._forgotten.forgotten(self._table.attempts()):
                log.info("nothing more has come of attempt %x since this instance was away", key)
                self._table.abort(key, None)
            for peer in self._orphans.orphaned(self._table.peers()):
                self._drop_peer(peer)

    async def _release(self) -> None:
        keys: dict[str, list[int]] = {}
        for attempt in self._table.attempts():
            keys.setdefault(attempt.gateway.instance_id, []).append(attempt.key)
        for gateway_id, released in keys.items():
            message = Released(self._instance.peer, pack_u64(released), "draining")
            await self._node.data.publish(subjects.gateway(gateway_id), message)
        self._table.drop_all("released")

    def _worker_control(self, worker: Peer) -> str:
        return subjects.control(self._instance.model_key, Stage.WORKER, worker.instance_id)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            stage=Stage.DETOKENIZER,
            peer=self._instance.peer,
            state=self._instance.state,
            served_model_name=self._instance.served_model_name,
            wire_level=WIRE_LEVEL,
            num_running=len(self._table),
            num_states=self._table.num_streams,
            counters=dict(self._metrics.counts),
        )

    def _description(self) -> Description:
        return Description(
            settings=public_values(self._settings),
            model={"tokenizer_kind": type(self._vocabulary).__name__, "vocab_size": self._vocabulary.size},
            stats={
                **self._metrics.counts,
                "num_streams": self._table.num_streams,
                "num_attempts": len(self._table),
                "num_tombstones": len(self._table.tombstones),
            },
        )
