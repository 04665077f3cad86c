"""The worker's story: jobs come in, the engine runs them, tokens go out to the detokenizers. The engine below runs
without a bus; only this file, its outbox and its answers to questions know one."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gpu_worker import self_report
from gpu_worker.backlog import Backlog
from gpu_worker.engine_host import EngineHost
from gpu_worker.engine_requests import generation_request, given_sequences, new_sequences
from gpu_worker.engine_thread import Abort as AbortCommand
from gpu_worker.engine_thread import Add
from gpu_worker.held_requests import HeldRequest, HeldRequests
from gpu_worker.hop_spans import HopSpans
from gpu_worker.outbox import Outbox
from gpu_worker.questions import Questions
from gpu_worker.reattachment import reattach
from gpu_worker.result_router import ResultRouter
from gpu_worker.scheduling.admission import RequestRefusedError
from gpu_worker.scheduling.batch import StepResult
from gpu_worker.step_log import StepLog
from gpu_worker.worker_metrics import WorkerMetrics
from wire import subjects
from wire.bus import Delivery
from wire.messages import (
    Abort,
    BatchAck,
    ErrorCode,
    GenerateJob,
    Heartbeat,
    InstanceState,
    Message,
    Peer,
    Reattach,
    Stage,
)
from wire.node import Node
from wire.orphans import OrphanWatch
from wire.presence import HEARTBEAT_INTERVAL_S, Member
from wire.telemetry import hop_attributes
from wire.tombstones import Tombstones

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How long a drain may take, when a live detokenizer's silence means that batches are lost, and when a step counts
    as hung; in seconds."""

    drain_timeout_s: float
    stall_timeout_s: float
    step_timeout_s: float = 60.0


class WorkerService:
    """One worker between its first and its last breath."""

    def __init__(
        self,
        node: Node,
        host: EngineHost,
        metrics: WorkerMetrics,
        limits: WorkerLimits,
        step_log: StepLog,
        settings: dict[str, Any],
    ) -> None:
        """`settings` is what `Describe` shows."""
        self._node = node
        self._host = host
        self._metrics = metrics
        self._limits = limits
        self._step_log = step_log
        self._held = HeldRequests()
        self._backlog = Backlog()
        self._tombstones = Tombstones()
        self._orphans = OrphanWatch(node.members)
        self._router = ResultRouter(node.instance.peer, self._held)
        self._outbox = Outbox(node, self._held, self._router)
        self._presence = node.presence(self._heartbeat)
        self._report_is_due = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._questions = Questions(node, host, self._held, step_log, settings, self._is_idle)

    async def start(self) -> None:
        """Loads the model while the others already see this instance starting; then listens for jobs."""
        await self._presence.start()
        loaded = await self._host.start(self._on_result, self._on_refused, self._on_suspect)
        self._metrics.watch(loaded.engine, loaded.page_size)
        self._node.members.on_lost.append(self._on_member_lost)
        self._node.data.on_connection_change(self._on_connection_change)
        self._node.control.on_connection_change(lambda _: self._held.keep_longer())  # it may be back first, and report
        model, instance_id = self._node.instance.model_key, self._node.instance.instance_id
        await self._node.control.subscribe(subjects.control(model, Stage.WORKER, instance_id), self._on_control)
        await self._node.control.subscribe(subjects.abort(model), self._on_control)
        await self._node.control.subscribe(subjects.rpc(model, Stage.WORKER, instance_id), self._questions.answer)
        await self._node.control.flush()
        await self._node.data.subscribe(self._job_subject, self._on_job)
        await self._node.data.flush()
        self._node.background.start(self._outbox.send_rows_forever())
        self._node.background.start(self._report_forever())

    async def announce(self) -> None:
        """Tells the others of a change of state."""
        await self._presence.announce()

    async def drain(self) -> None:
        """Finishes what it holds; after the timeout hands the rest back to the gateways."""
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                await self._is_idle.wait()
        except TimeoutError:
            await self._release_all()
        await self._outbox.send_rows()
        await self._outbox.until_settled(self._limits.stall_timeout_s)
        await self._node.data.flush_last_words()

    async def close(self) -> None:
        """Stops the engine and leaves the bus."""
        await self._node.background.stop()
        await asyncio.to_thread(self._host.stop)
        await self._node.close()

    # What comes in.

    async def _on_job(self, message: Message, _: Delivery) -> None:
        if not isinstance(message, GenerateJob) or message.key in self._held:
            return
        if self._tombstones.covers(message.key):
            return
        if self._node.instance.state is not InstanceState.READY:
            await self._outbox.release(message.gateway, [message.key], "draining")
            return
        try:
            await self._accept(message)
        except RequestRefusedError as error:
            self._metrics.refused.inc()
            await self._outbox.fail(
                message.gateway, message.key, ErrorCode.INVALID_REQUEST, str(error), is_retryable=False
            )

    async def _accept(self, job: GenerateJob) -> None:
        received_ns = time.time_ns()
        self._host.check(generation_request(job, given_sequences(job)))
        attributes = hop_attributes(self._node.instance.served_model_name, self._job_subject)
        request = self._held.hold(job, received_ns, HopSpans(self._node.tracing, job, received_ns, attributes))
        for start in job.sequences:
            if self._tombstones.covers(job.key, start.choice):
                self._router.stop(job.key, start.choice)
        if not request.streams:
            return
        self._is_idle.clear()
        self._metrics.requests.inc()
        position = len(self._host.engine.waiting())
        self._host.submit(Add(generation_request(job, new_sequences(request), received_ns)))
        await self._outbox.send_receipt(request, position)

    async def _on_control(self, message: Message, _: Delivery) -> None:
        if isinstance(message, Abort):
            self._abort(message.key, message.choice)
        elif isinstance(message, Reattach):
            await self._reattach(message)
        elif isinstance(message, BatchAck) and message.worker == self._node.instance.peer:
            channel = self._router.channels.get(message.detokenizer.instance_id)
            if channel is not None:
                channel.acknowledge(message.batch_seq)
                self._outbox.rows_are_due()

    def _on_member_lost(self, member: Member, cause: str) -> None:
        peer, stage = member.heartbeat.peer, member.heartbeat.stage
        if stage is Stage.DETOKENIZER:
            self._router.forget_channel(peer.instance_id)
            self._outbox.rows_are_due()
        elif stage is Stage.GATEWAY:
            self._abort_requests_of(peer, cause)

    def _abort_requests_of(self, gateway: Peer, cause: str) -> None:
        if keys := self._held.of_gateway(gateway):
            log.warning("%s is gone (%s): aborting its %d requests", gateway.instance_id, cause, len(keys))
            for key in keys:
                self._abort(key, None)

    def _on_connection_change(self, is_connected: bool) -> None:
        if is_connected:
            for channel in self._router.channels.values():
                channel.forget_unacked()
            self._outbox.rows_are_due()
            self._held.keep_longer()
            self._report_is_due.set()  # the gateways want to know what they have missed

    # What the engine says.

    def _on_result(self, result: StepResult) -> None:
        for broken in self._router.route(result):
            job = broken.request.job
            self._host.submit(AbortCommand(broken.request.engine_key))
            self._outbox.fail_soon(job.gateway, job.key, ErrorCode.INTERNAL, broken.message, is_retryable=True)
        self._metrics.observe(result.stats, len(result.token_ids))
        self._step_log.observe(result.stats)
        self._backlog.observe(result)
        self._outbox.rows_are_due()
        self._note_idle()

    def _on_refused(self, key: int, error: RequestRefusedError) -> None:
        request = self._held.of_engine(key)
        if request is not None:
            job = request.job
            self._router.drop(job.key)
            self._outbox.fail_soon(job.gateway, job.key, ErrorCode.INVALID_REQUEST, str(error), is_retryable=False)
            self._note_idle()

    async def _on_suspect(self, engine_key: int) -> None:
        """Its prefill comes next: should this process die of it, its gateway knows which one it was."""
        request = self._held.of_engine(engine_key)
        if request is not None:
            await self._outbox.announce_suspect(request)

    # What it does by itself.

    async def _report_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._report_is_due.wait(), HEARTBEAT_INTERVAL_S)
            self._report_is_due.clear()
            for gateway in self._orphans.orphaned({request.job.gateway for request in self._held}):
                self._abort_requests_of(gateway, "a job of its came later than its loss")
            await self._outbox.send_progress(self._queue_positions())
            if self._node.control.is_connected:
                self._held.forget_kept()
            self._router.prune(self._node.members)
            for detokenizer, channel in self._router.channels.items():
                channel.finished.forget_unheard(self._limits.stall_timeout_s)
                if channel.is_stalled(self._limits.stall_timeout_s):
                    log.warning("%s acknowledges nothing: its batches may be lost", detokenizer)
                    self._metrics.stalls.inc()
                    channel.forget_unacked()
                    self._outbox.rows_are_due()

    def _abort(self, key: int, choice: int | None) -> None:
        request = self._held.get(key)
        if self._router.drop(key) if choice is None else self._router.stop(key, choice):
            assert request is not None, "what was dropped was held"
            self._host.submit(AbortCommand(request.engine_key, choice))
            self._note_idle()
        else:
            self._tombstones.add(key, choice)

    async def _reattach(self, message: Reattach) -> None:
        if message.new_key in self._held or self._tombstones.covers(message.new_key):
            return
        request = reattach(self._held, self._router, message, time.time_ns())
        if request is None:
            held = self._held.find(message.old_key)
            if held is not None and held.job.gateway.instance_id == message.sender.instance_id:
                self._abort(held.job.key, None)  # its gateway starts it anew
            await self._outbox.release(message.sender, [message.new_key], "not held")
            return
        self._metrics.reattached.inc()
        wanted = {point.choice for point in message.points}
        for stream in list(request.streams.values()):
            if stream.choice not in wanted:
                self._abort(message.new_key, stream.choice)
        self._outbox.rows_are_due()
        await self._outbox.send_receipt(request, self._queue_position(request))

    async def _release_all(self) -> None:
        await self._outbox.send_rows()
        released = {gateway: [request.job.key for request in held] for gateway, held in self._held.by_gateway()}
        for keys in released.values():
            for key in keys:  # at once: while one gateway is told, another one may give its request a new key
                self._abort(key, None)
        for gateway, keys in released.items():
            log.info("handing %d requests back to %s", len(keys), gateway.instance_id)
            await self._outbox.release(gateway, keys, "drain timeout")

    def _note_idle(self) -> None:
        if len(self._held) == 0:
            self._is_idle.set()

    def _queue_position(self, request: HeldRequest) -> int | None:
        """Without a look at the queue for what runs, as after an outage hundreds are re-attached at once."""
        if any(stream.sequence is not None for stream in request.streams.values()):
            return None
        waiting = enumerate(self._host.engine.waiting())
        return next((position for position, sequence in waiting if sequence.key == request.engine_key), None)

    def _queue_positions(self) -> dict[int, int]:
        return {sequence.key: position for position, sequence in reversed(list(enumerate(self._host.engine.waiting())))}

    @property
    def _job_subject(self) -> str:
        return subjects.data(self._node.instance.model_key, Stage.WORKER, self._node.instance.instance_id)

    def _heartbeat(self) -> Heartbeat:
        limit_s = self._limits.step_timeout_s
        return self_report.heartbeat(self._node.instance, self._host, self._held, self._backlog, limit_s)
