"""Sends attempts: chooses who gets them and builds the job. The only place that makes keys."""

import hashlib
import secrets
import time

from opentelemetry.trace import Span

from gateway.inflight.generation import Attempt, Cause, Generation, HeldAt
from gateway.inflight.in_flight import InFlight
from gateway.inflight.reattaching import points
from gateway.inflight.recovery import Recovery
from gateway.inflight.spans import AttemptSpans
from wire import subjects
from wire.messages import Reattach, Stage, TokenizeJob, TokensPrompt
from wire.node import Node
from wire.presence import Member, choose
from wire.telemetry import traceparent_of, tracestate_of

_NUM_PREFERRED_DETOKENIZERS = 2


class Dispatcher:
    """From a generation that needs an attempt to a job on its way to a tokenizer."""

    def __init__(self, node: Node, in_flight: InFlight, recovery: Recovery, spans: AttemptSpans) -> None:
        self._node = node
        self._in_flight = in_flight
        self._recovery = recovery
        self._spans = spans

    def ready(self, stage: Stage) -> list[Member]:
        """The instances of a stage that serve this gateway's model and take new work; none that hangs in a step."""
        ready = self._node.members.ready(stage, self._node.instance.served_model_name)
        return [member for member in ready if not member.is_hung]

    def missing_stage(self) -> Stage | None:
        """The first stage without a ready instance."""
        stages = (Stage.TOKENIZER, Stage.WORKER, Stage.DETOKENIZER)
        return next((stage for stage in stages if not self.ready(stage)), None)

    async def send(self, generation: Generation) -> None:
        """Starts the next attempt, or parks the generation if a stage has nobody.

        A worker that still has its sequences is asked to go on. Raises `MessageTooLargeError` if the broker would
        refuse the job.
        """
        held = generation.held
        if held is not None and self._node.members.get(held.worker_id) is not None:
            await self._reattach(generation, held)
            return
        generation.held = None
        missing = self.missing_stage()
        tokenizer = choose(_unsuspected(self.ready(Stage.TOKENIZER), generation.suspects))
        detokenizer = choose(self._preferred_detokenizers(generation.suspects))
        if missing or tokenizer is None or detokenizer is None:
            self._recovery.park(generation, missing or Stage.TOKENIZER)
            return
        attempt = self._begin(generation, detokenizer, tokenizer_id=tokenizer.instance_id)
        job = self._job(generation, attempt, detokenizer)
        subject = subjects.data(self._node.instance.model_key, Stage.TOKENIZER, tokenizer.instance_id)
        await self._node.data.send_job(subject, job, attempt.key, _trace_headers(attempt.span))

    async def _reattach(self, generation: Generation, held: HeldAt) -> None:
        detokenizer = choose(self._preferred_detokenizers(generation.suspects))
        if detokenizer is None:
            self._recovery.park(generation, Stage.DETOKENIZER)
            return
        attempt = self._begin(generation, detokenizer, worker_id=held.worker_id)
        message = Reattach(
            sender=self._node.instance.peer,
            old_key=held.key,
            new_key=attempt.key,
            detokenizer=detokenizer.heartbeat.peer,
            points=points(generation),
            attempt=attempt.number,
            traceparent=traceparent_of(attempt.span),
            tracestate=tracestate_of(attempt.span),
        )
        # On the connection of the aborts: one that is sent later must not come earlier.
        subject = subjects.control(self._node.instance.model_key, Stage.WORKER, held.worker_id)
        await self._node.control.send_job(subject, message, attempt.key)

    def _begin(
        self, generation: Generation, detokenizer: Member, *, tokenizer_id: str = "", worker_id: str = ""
    ) -> Attempt:
        number = generation.num_attempts + 1
        attempt = Attempt(
            key=secrets.randbits(64) or 1,
            number=number,
            cause=generation.next_cause if number > 1 else Cause.NEW,
            tokenizer_id=tokenizer_id,
            worker_id=worker_id,
            detokenizer_id=detokenizer.instance_id,
            accept_by=self._recovery.acceptance_deadline(),
            heard_at=time.monotonic(),
            num_received_before=generation.num_received,
            is_resume=generation.dispatched is not None,
            is_reattachment=bool(worker_id),
        )
        attempt.span = self._spans.start(generation, attempt)
        self._in_flight.begin(generation, attempt)
        return attempt

    def _job(self, generation: Generation, attempt: Attempt, detokenizer: Member) -> TokenizeJob:
        ask, frozen = generation.input, generation.dispatched
        return TokenizeJob(
            key=attempt.key,
            request_id=ask.request_id,
            attempt=attempt.number,
            gateway=self._node.instance.peer,
            detokenizer=detokenizer.heartbeat.peer,
            prompt=TokensPrompt(frozen.prompt_ids) if frozen else ask.prompt,
            sampling=frozen.sampling if frozen else ask.sampling,
            sequences=generation.unfinished(),
            sampling_from_model=() if frozen else ask.sampling_from_model,
            is_resume=attempt.is_resume,
            model_fingerprint=frozen.model_fingerprint if frozen else "",
            excluded_workers=self._excluded_workers(generation),
            received_ns=generation.call.received_ns,
            is_suspect=generation.is_suspect,
            num_crashes=generation.num_crashes,
        )

    def _excluded_workers(self, generation: Generation) -> tuple[str, ...]:
        """Who failed this request, unless there is nobody else.

        Those that are lost here count too: the tokenizer may not have missed them yet.
        """
        workers = {member.instance_id for member in self.ready(Stage.WORKER)}
        return tuple(sorted(generation.suspects)) if workers - generation.suspects else ()

    def _preferred_detokenizers(self, suspects: set[str]) -> list[Member]:
        """Few per gateway, so that batches do not fragment: the highest by rendezvous hashing (Thaler, 1996)."""
        own_id = self._node.instance.instance_id

        def weight(member: Member) -> bytes:
            return hashlib.blake2s(f"{own_id}/{member.instance_id}".encode(), digest_size=8).digest()

        return sorted(_unsuspected(self.ready(Stage.DETOKENIZER), suspects), key=weight)[:_NUM_PREFERRED_DETOKENIZERS]


def _unsuspected(members: list[Member], suspects: set[str]) -> list[Member]:
    return [member for member in members if member.instance_id not in suspects] or members


def _trace_headers(span: Span) -> dict[str, str] | None:
    traceparent = traceparent_of(span)
    return {"traceparent": traceparent, "tracestate": tracestate_of(span)} if traceparent else None
