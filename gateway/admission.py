"""Who is let in: refuses before any work what could only wait long or fail."""

import asyncio
import math
from contextlib import suppress

from gateway.errors import RequestError, bad_request, unavailable
from gateway.inflight.generation import Call, Standing
from gateway.inflight.pipeline import Pipeline
from wire.messages import InstanceState, Stage
from wire.node import Node

_LONGEST_RETRY_AFTER_S = 60.0


class Admission:
    """503 while something is missing or leaving, 429 while the queue is full."""

    def __init__(self, node: Node, pipeline: Pipeline, max_queued_requests: int) -> None:
        self._node = node
        self._pipeline = pipeline
        self._max_queued_requests = max_queued_requests
        self._has_connection = asyncio.Event()
        self._note_connection()
        for bus in (node.data, node.control):
            bus.on_connection_change(lambda _: self._note_connection())

    async def check(self, call: Call | None = None) -> None:
        """Raises for a new call that cannot be served now; without `call` its body is not known yet. One that comes
        during a drain, on a connection that is still open, can. While the connection to NATS is lost it waits, for the
        heartbeat timeout at most: who is away for less counts as there.
        """
        if not self._has_connection.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_connection.wait(), self._node.members.timeout_s)
        self._check_parts()
        if self._max_queued_requests >= 0:
            self._check_queue(max(self._max_queued_requests, 1), call)

    def _check_queue(self, limit: int, call: Call | None) -> None:
        """A call is let in as a whole, so all its sequences must find room. One prompt with more choices than that
        cannot be divided: it may have an empty queue to itself. More prompts than that can be sent in parts.
        """
        num_new = call.num_sequences if call else 1
        if call and num_new > limit and len(call.generations) > 1:
            raise bad_request(f"The call asks for {num_new} sequences (prompts times n), at most {limit} may wait.")
        num_waiting = self._num_waiting()
        if num_waiting and num_waiting + num_new > limit:
            wanted = f", the call asks for {num_new}" if call else ""
            message = f"The request queue is full. {num_waiting} sequences wait{wanted}, the limit is {limit}."
            headers = {"Retry-After": str(self._retry_after_s())}
            raise RequestError(429, message, code="queue_full", headers=headers)

    def check_ready(self) -> None:
        """Raises unless every stage has a ready instance and this one is not leaving."""
        if self._node.instance.state is InstanceState.DRAINING:
            raise RequestError(503, "The server is shutting down.", code="draining")
        self._check_parts()

    def _check_parts(self) -> None:
        if self._node.instance.state is InstanceState.LEAVING:
            raise RequestError(503, "The server is shutting down.", code="draining")
        if not self._is_connected:
            raise RequestError(503, "The connection to NATS is lost. Try again later.", code="unavailable")
        if missing := self._pipeline.dispatcher.missing_stage():
            raise unavailable(missing)

    @property
    def _is_connected(self) -> bool:
        return self._node.data.is_connected and self._node.control.is_connected

    def _note_connection(self) -> None:
        if self._is_connected:
            self._has_connection.set()
        else:
            self._has_connection.clear()

    def _num_waiting(self) -> int:
        """Sequences that wait at the workers, and those still on their way to one.

        A heartbeat is up to half a second old, so own requests that a worker has queued since count from here.
        """
        beats = (member.heartbeat for member in self._pipeline.dispatcher.ready(Stage.WORKER))
        num_own = self._pipeline.in_flight.num_standing
        return num_own[Standing.ON_THE_WAY] + max(sum(beat.num_waiting for beat in beats), num_own[Standing.QUEUED])

    def _retry_after_s(self) -> int:
        """The shortest wait that any worker announces, within limits: it is an estimate."""
        backlogs = (member.heartbeat.backlog_s for member in self._pipeline.dispatcher.ready(Stage.WORKER))
        return math.ceil(min(_LONGEST_RETRY_AFTER_S, max(1.0, min(backlogs, default=0.0))))
