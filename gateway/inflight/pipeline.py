"""From the HTTP side to the other stages and back: submit a call, and its generations fill up until they are done."""

import asyncio
import logging
import time

from gateway.errors import RequestError, too_large, unencodable
from gateway.inflight.arrivals import Arrivals
from gateway.inflight.dispatch import Dispatcher
from gateway.inflight.generation import Attempt, Call, Cause, Generation
from gateway.inflight.in_flight import InFlight
from gateway.inflight.recovery import TICK_S, Recovery
from gateway.inflight.spans import AttemptSpans
from gateway.metrics import GatewayMetrics
from wire import subjects
from wire.bus import Delivery, MessageTooLargeError
from wire.messages import Abort, Dispatched, Failed, Message, Progress, Released, TextBatch
from wire.node import Node
from wire.presence import Member

log = logging.getLogger(__name__)

_ABORTED_BY_CLIENT = "The request was aborted."


class Pipeline:
    """The requests of this gateway. One subscription brings everything; keys tell what belongs where."""

    def __init__(
        self, node: Node, metrics: GatewayMetrics, resume_timeout_s: float, *, is_recovering: bool = True
    ) -> None:
        """Without recovery nothing is judged and nothing repaired: what is known to be lost fails."""
        self.in_flight = InFlight()
        self._node = node
        self._metrics = metrics
        self._spans = AttemptSpans(node.tracing)
        self.recovery = Recovery(
            self.in_flight,
            node.members,
            metrics,
            resume_timeout_s,
            self._fail,
            self._on_attempt_ended,
            is_enabled=is_recovering,
        )
        self._arrivals = Arrivals(self.in_flight, metrics, self.recovery.gap, self._finish)
        self.dispatcher = Dispatcher(node, self.in_flight, self.recovery, self._spans)
        self._has_outgoing = asyncio.Event()

    async def start(self) -> None:
        """Subscribes; from here on other stages can answer."""
        await self._node.data.subscribe(subjects.gateway(self._node.instance.instance_id), self._on_message)
        for bus in (self._node.data, self._node.control):
            await bus.watch_unreachable(self._on_unreachable)
            bus.on_connection_change(lambda _: self.recovery.was_away())
        self._node.members.on_lost.append(self._on_lost)
        self._node.members.on_joined.append(self.recovery.joined)
        self._node.background.start(self._send_outgoing())
        if self.recovery.is_enabled:
            self._node.background.start(self._watch())

    async def submit(self, call: Call) -> None:
        """Sends the first attempt of every generation."""
        for generation in call.generations:
            self.in_flight.admit(generation)
        for generation in call.generations:
            if not generation.is_done:  # sending may wait for the connection, and an operator abort it meanwhile
                await self._send(generation)

    async def abandon(self, call: Call) -> None:
        """The client is gone: every stage stops working on its generations."""
        for generation in call.generations:
            self._abandon(generation)
        await self._send_aborts()

    async def abort(self, request_id_prefix: str) -> int:
        """Ends matching generations gracefully; an empty prefix matches all. Returns how many there were."""
        aborted = [g for g in self.in_flight if g.input.request_id.startswith(request_id_prefix)]
        for generation in aborted:
            generation.finish_aborted(_ABORTED_BY_CLIENT)
            self._abandon(generation)
        await self._send_aborts()
        return len(aborted)

    async def fail_all(self, error: RequestError) -> None:
        """Ends everything that is left with an error."""
        for generation in self.in_flight:
            self._fail(generation, error)
        await self._send_aborts()

    async def _on_message(self, message: Message, _: Delivery) -> None:
        match message:
            case TextBatch():
                self._arrivals.apply(message)
            case Progress():
                if self.recovery.is_enabled:
                    self.recovery.reports.progress(message)
            case Dispatched():
                self.recovery.reports.dispatched(message)
            case Failed():
                self.recovery.failed(message)
            case Released():
                self.recovery.released(message)
            case _:
                return
        self._wake_if_outgoing()

    def _on_unreachable(self, key: int) -> None:
        self.recovery.unreachable(key)
        self._wake_if_outgoing()

    def _on_lost(self, member: Member, cause: str) -> None:
        num_repaired = self.recovery.lost(member)
        if num_repaired:
            log.warning("%s is lost (%s): %d requests go on elsewhere", member.instance_id, cause, num_repaired)
        self._wake_if_outgoing()

    def _wake_if_outgoing(self) -> None:
        if self.recovery.outbox.aborts or self.recovery.outbox.due:
            self._has_outgoing.set()

    async def _watch(self) -> None:
        was_blind = False
        while True:
            await asyncio.sleep(TICK_S)
            is_blind = not self._node.data.is_connected or self._node.members.is_blind
            if not is_blind:
                if was_blind:
                    self.recovery.was_away()
                self.recovery.tick()
            else:
                self.recovery.forgive()
            was_blind = is_blind
            self._wake_if_outgoing()

    async def _send_outgoing(self) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            await self._send_aborts()
            if not (self._node.data.is_connected and self._node.control.is_connected):
                continue  # a job or a re-attachment would be discarded; `_watch` tries again
            for generation in self.recovery.outbox.take_due():
                if not generation.is_done and generation.attempt is None:
                    await self._send(generation)

    async def _send(self, generation: Generation) -> None:
        try:
            await self.dispatcher.send(generation)
        except MessageTooLargeError as error:
            self._fail(generation, too_large(error.size, error.limit))
        except OverflowError as error:
            self._fail(generation, unencodable(error))
        if generation.attempt is not None:
            self._metrics.count_attempt(generation.attempt)

    async def _send_aborts(self) -> None:
        if not self._node.control.is_connected:  # a stage that missed one would hold its stream for ever
            return  # `_watch` tries again
        for holder_id, key in self.recovery.outbox.take_aborts():
            abort = Abort(self._node.instance.peer, key)
            if not await self._node.control.publish(self._control_subject(holder_id), abort):
                self.recovery.outbox.aborts.append((holder_id, key))

    def _control_subject(self, holder_id: str) -> str:
        model_key = self._node.instance.model_key
        member = self._node.members.get(holder_id)
        if member is None:
            return subjects.abort(model_key)
        return subjects.control(model_key, member.heartbeat.stage, holder_id)

    def _abandon(self, generation: Generation) -> None:
        self.recovery.abandon(generation)
        if not generation.is_done:
            generation.finish_aborted(_ABORTED_BY_CLIENT)
        self._finish(generation)

    def _fail(self, generation: Generation, error: RequestError) -> None:
        self.recovery.abandon(generation)
        generation.fail(error)
        self._finish(generation)

    def _finish(self, generation: Generation) -> None:
        attempt = generation.attempt
        if self.in_flight.remove(generation):
            if attempt is not None:
                self._spans.end(generation, attempt)
            self._metrics.count_finished(generation, time.monotonic())

    def _on_attempt_ended(self, generation: Generation, attempt: Attempt, cause: Cause) -> None:
        self._spans.end(generation, attempt, cause)
