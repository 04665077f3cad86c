"""The story of this stage: a TokenizeJob comes in from a gateway, a GenerateJob goes out to a worker.

In between the request is held, reported and can be aborted. Nothing about it is kept once a worker has it.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from opentelemetry.trace import Span

from tokenizer_svc.dispatch import Dispatcher, num_prompt_tokens
from tokenizer_svc.errors import RequestError
from tokenizer_svc.held import HeldRequests, progress_of
from tokenizer_svc.lanes import EncodingLanes, size_of
from tokenizer_svc.metrics import TokenizerMetrics
from tokenizer_svc.questions import Questions
from tokenizer_svc.served_model import ServedModel
from tokenizer_svc.spans import TokenizeSpans, mark_failed, trace_headers
from tokenizer_svc.workers import longest_sequence
from wire import subjects
from wire.bus import Delivery, MessageTooLargeError
from wire.codec import WIRE_LEVEL
from wire.columns import pack_u64
from wire.messages import (
    Abort,
    Description,
    ErrorCode,
    Failed,
    GenerateJob,
    Heartbeat,
    InstanceState,
    Message,
    Peer,
    Released,
    Stage,
    TokenizeJob,
)
from wire.node import Node
from wire.orphans import OrphanWatch
from wire.presence import HEARTBEAT_INTERVAL_S, Member
from wire.telemetry import NO_SPAN, traceparent_of

log = logging.getLogger(__name__)


class TokenizerService:
    """One tokenizer instance."""

    def __init__(
        self,
        node: Node,
        model: ServedModel,
        lanes: EncodingLanes,
        description: Description,
        *,
        drain_timeout_s: float,
    ) -> None:
        instance = node.instance
        self._node = node
        self._model = model
        self._lanes = lanes
        self._drain_timeout_s = drain_timeout_s
        self._subject = subjects.data(instance.model_key, Stage.TOKENIZER, instance.instance_id)
        self._held = HeldRequests()
        self._orphans = OrphanWatch(node.members)
        self._dispatcher = Dispatcher(node)
        self._questions = Questions(node.data, model, lanes, description)
        self._metrics = TokenizerMetrics(node.registry)
        self._spans = TokenizeSpans(node.tracing, instance.served_model_name, self._subject)
        self._presence = node.presence(self._describe)
        self._background: set[asyncio.Task[None]] = set()

    @property
    def num_held(self) -> int:
        """Requests between receipt and dispatch."""
        return len(self._held)

    async def start(self) -> None:
        """Listens for jobs, aborts and questions, then shows itself to the others."""
        node, instance = self._node, self._node.instance
        name = (instance.model_key, Stage.TOKENIZER, instance.instance_id)
        node.members.on_lost.append(self._on_member_lost)
        await node.data.watch_unreachable(self._on_unreachable)
        await node.data.subscribe(self._subject, self._on_job)
        await node.data.subscribe(subjects.rpc(*name), self._questions.receive)
        await node.control.subscribe(subjects.control(*name), self._on_control)
        await node.control.subscribe(subjects.abort(instance.model_key), self._on_control)
        await node.data.flush()
        await self._presence.start()
        self._node.background.start(self._report())

    async def announce(self) -> None:
        """Tells the others of a change of state."""
        await self._presence.announce()

    async def drain(self) -> None:
        """Finishes what is held; what takes longer than the drain timeout goes back to its gateway."""
        if self.num_held:
            await asyncio.wait(self._held.tasks(), timeout=self._drain_timeout_s)
        for gateway_id, keys in self._held.drop_all().items():
            await self._hand_back(gateway_id, keys)
        await self._questions.finish(self._drain_timeout_s)
        await self._node.data.flush_last_words()

    async def close(self) -> None:
        """Lets go of everything."""
        await self._node.background.stop()
        for task in self._background:
            task.cancel()
        self._lanes.close()
        await self._node.close()

    async def _on_job(self, message: Message, delivery: Delivery) -> None:
        if not isinstance(message, TokenizeJob):
            self._metrics.dropped.labels("unexpected message").inc()
        elif self._held.is_aborted(message.key):
            self._metrics.dropped.labels("aborted").inc()
        elif message.key in self._held:
            self._metrics.dropped.labels("duplicate").inc()
        elif self._node.instance.state in (InstanceState.DRAINING, InstanceState.LEAVING):
            await self._hand_back(message.gateway.instance_id, [message.key])
        else:
            await self._accept(message, trace_headers(delivery))

    async def _accept(self, job: TokenizeJob, headers: dict[str, str]) -> None:
        """Takes the job and says so at once: the gateway waits for this, and not for the encoding."""
        gateway_subject = subjects.gateway(job.gateway.instance_id)
        receipt = progress_of(self._node.instance.peer, [job], is_receipt=True)  # before holding: a bad key raises here
        self._metrics.requests.inc()
        self._held.hold(job, asyncio.create_task(self._handle(job, headers)))
        await self._node.control.publish(gateway_subject, receipt)

    async def _handle(self, job: TokenizeJob, headers: dict[str, str]) -> None:
        """Ends in one `Dispatched` or one `Failed`, or in silence if the request is dropped meanwhile."""
        span = self._spans.start(job, headers)
        try:
            await self._or_fail(job, functools.partial(self._encode_and_dispatch, job, headers, span), span)
        finally:
            span.end(time.time_ns())
            self._held.release(job.key)

    async def _encode_and_dispatch(self, job: TokenizeJob, headers: dict[str, str], span: Span) -> None:
        with self._metrics.encode_seconds.time():
            longest = longest_sequence(self._node.members, self._node.instance.served_model_name)
            prepared = await self._lanes.run(size_of(job.prompt), functools.partial(self._model.prepare, job, longest))
        num_tokens = num_prompt_tokens(prepared)
        span.set_attribute("gen_ai.usage.input_tokens", num_tokens)
        await self._dispatcher.dispatch(job, prepared, headers, traceparent_of(span))
        self._metrics.dispatched.inc()
        self._metrics.prompt_tokens.inc(num_tokens)

    async def _or_fail(self, job: TokenizeJob | GenerateJob, work: Callable[[], Awaitable[None]], span: Span) -> None:
        """The one place where an error becomes the request's `Failed`."""
        try:
            await work()
        except RequestError as error:
            await self._fail(job, error, span)
        except MessageTooLargeError as error:
            await self._fail(job, RequestError(ErrorCode.TOO_LARGE, str(error)), span)
        except Exception as error:
            log.exception("request %s failed", job.request_id)
            message = f"The tokenizer failed: {type(error).__name__}."
            await self._fail(job, RequestError(ErrorCode.INTERNAL, message), span)

    async def _fail(self, job: TokenizeJob | GenerateJob, error: RequestError, span: Span) -> None:
        self._metrics.failures.labels(error.code).inc()
        mark_failed(span, error.code, error.message)
        failed = Failed(
            key=job.key,
            sender=self._node.instance.peer,
            code=error.code,
            message=error.message,
            is_retryable=error.is_retryable,
        )
        await self._node.data.publish(subjects.gateway(job.gateway.instance_id), failed)

    def _on_unreachable(self, key: int) -> None:
        """The chosen worker was gone; the broker says so within a millisecond."""
        dispatch = self._dispatcher.forget(key)
        if dispatch is not None:
            self._metrics.unreachable.inc()
            resend = functools.partial(self._dispatcher.redispatch, dispatch)
            self._spawn(self._or_fail(dispatch.job, resend, NO_SPAN))

    async def _on_control(self, message: Message, _: Delivery) -> None:
        """An abort of one choice is for whoever has its tokens: here the request goes on for the other choices."""
        if isinstance(message, Abort) and message.choice is None:
            self._held.abort(message.key)
            self._dispatcher.forget(message.key)

    def _on_member_lost(self, member: Member, cause: str) -> None:
        if member.heartbeat.stage is Stage.GATEWAY:
            self._drop_requests_of(member.heartbeat.peer, cause)

    def _drop_requests_of(self, gateway: Peer, cause: str) -> None:
        num_dropped = self._held.drop_requests_of(gateway)
        self._metrics.dropped.labels("gateway lost").inc(num_dropped)
        if num_dropped:
            log.info("gateway %s is lost (%s): dropped %d requests", gateway.instance_id, cause, num_dropped)

    async def _hand_back(self, gateway_id: str, keys: list[int]) -> None:
        released = Released(self._node.instance.peer, pack_u64(keys), "the tokenizer is draining")
        await self._node.data.publish(subjects.gateway(gateway_id), released)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            for gateway in self._orphans.orphaned(self._held.gateways()):
                self._drop_requests_of(gateway, "a job of its came later than its loss")
            for gateway_id, progress in self._held.progress(self._node.instance.peer):
                await self._node.control.publish(subjects.gateway(gateway_id), progress)
            self._dispatcher.forget_confirmed()

    def _describe(self) -> Heartbeat:
        instance = self._node.instance
        return Heartbeat(
            stage=Stage.TOKENIZER,
            peer=instance.peer,
            state=instance.state,
            served_model_name=instance.served_model_name,
            wire_level=WIRE_LEVEL,
            num_running=self.num_held,
            context_length=self._model.window.length,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
