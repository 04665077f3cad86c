"""The hand-over of an encoded request to a worker, and to another one if nobody is there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenizer_svc.errors import RequestError
from tokenizer_svc.served_model import PreparedPrompt
from tokenizer_svc.spans import TRACEPARENT, TRACESTATE
from tokenizer_svc.workers import choose_worker
from wire import subjects
from wire.codec import encode
from wire.columns import count_u32
from wire.messages import Dispatched, ErrorCode, GenerateJob, Stage, StreamSettings, TokenizeJob
from wire.node import Node

_MAX_WORKERS_TRIED = 3
_UNREACHABLE_WITHIN_S = 1.0  # "no responders" takes 0.2 ms; later than this, the gateway has noticed by itself
_PROMPT_TAIL_TOKENS = 16
_MESSAGE_SLACK_BYTES = 1 << 14


@dataclass(slots=True, eq=False)
class Dispatch:
    """A job on its way: kept until it is sure that somebody listened."""

    job: GenerateJob
    headers: dict[str, str]
    fingerprint: str
    excluded: tuple[str, ...]
    tried: list[str] = field(default_factory=list)
    sent_at: float = 0.0


class Dispatcher:
    """Sends jobs to workers and tells the gateway which one got it."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._recent: dict[int, Dispatch] = {}  # by key, in order of sending

    async def dispatch(
        self, job: TokenizeJob, prepared: PreparedPrompt, headers: dict[str, str], previous_hop: str
    ) -> None:
        """Chooses a worker and sends it the job; raises `RequestError` or `MessageTooLargeError`."""
        generate_job = self._generate_job(job, prepared, headers, previous_hop)
        if not job.is_resume:
            self._check_size(generate_job)
        await self._send(Dispatch(generate_job, headers, job.model_fingerprint, job.excluded_workers))

    async def redispatch(self, dispatch: Dispatch) -> None:
        """Sends a job whose worker was gone to another one; raises `RequestError` when none is left to try."""
        self._node.members.drop(dispatch.tried[-1], "nobody listens on its subject")
        if len(dispatch.tried) >= _MAX_WORKERS_TRIED:
            tried = ", ".join(dispatch.tried)
            raise RequestError(ErrorCode.UNAVAILABLE, f"None of these workers answered: {tried}.", is_retryable=True)
        await self._send(dispatch)

    def forget(self, key: int) -> Dispatch | None:
        """Lets go of a dispatch, because it was aborted or is to be sent again."""
        return self._recent.pop(key, None)

    def forget_confirmed(self) -> None:
        """Lets go of what nobody has reported unreachable in time."""
        limit = self._clock() - _UNREACHABLE_WITHIN_S
        for key, dispatch in list(self._recent.items()):
            if dispatch.sent_at > limit:
                break
            del self._recent[key]

    def _check_size(self, job: GenerateJob) -> None:
        """Raises `RequestError` if the largest message of this request, a late resume, exceeds the broker's limit."""
        sampling = job.sampling
        needed = len(encode(job)) + 4 * sampling.n * (sampling.max_new_tokens or 0) + _MESSAGE_SLACK_BYTES
        if needed > self._node.data.max_payload:
            raise RequestError(
                ErrorCode.TOO_LARGE,
                f"The request can need a message of {needed} bytes, the broker's max_payload is "
                f"{self._node.data.max_payload} bytes: shorten the prompt, n, max_new_tokens, stop or logit_bias.",
            )

    async def _send(self, dispatch: Dispatch) -> None:
        node, job = self._node, dispatch.job
        worker = choose_worker(
            node.members,
            node.instance.served_model_name,
            excluded=(*dispatch.excluded, *dispatch.tried),
            fingerprint=dispatch.fingerprint,
        )
        dispatch.tried.append(worker.instance_id)
        dispatch.sent_at = self._clock()
        self._recent[job.key] = dispatch
        subject = subjects.data(node.instance.model_key, Stage.WORKER, worker.instance_id)
        dispatched = Dispatched(
            key=job.key,
            tokenizer=node.instance.peer,
            worker=worker.heartbeat.peer,
            prompt_ids=job.prompt_ids,
            sampling=job.sampling,
            model_fingerprint=worker.heartbeat.model_fingerprint,
        )
        await node.data.send_job(subject, job, job.key, dispatch.headers or None)
        await node.data.publish(subjects.gateway(job.gateway.instance_id), dispatched)

    def _generate_job(
        self, job: TokenizeJob, prepared: PreparedPrompt, headers: dict[str, str], previous_hop: str
    ) -> GenerateJob:
        return GenerateJob(
            key=job.key,
            request_id=job.request_id,
            attempt=job.attempt,
            tokenizer=self._node.instance.peer,
            gateway=job.gateway,
            detokenizer=job.detokenizer,
            prompt_ids=prepared.prompt_ids,
            sampling=prepared.sampling,
            sequences=job.sequences,
            stream=_stream_settings(job, prepared, headers),
            previous_hop=previous_hop,
            received_ns=job.received_ns,
            is_suspect=job.is_suspect,
            num_crashes=job.num_crashes,
        )


def _stream_settings(job: TokenizeJob, prepared: PreparedPrompt, headers: dict[str, str]) -> StreamSettings:
    sampling = prepared.sampling
    return StreamSettings(
        gateway=job.gateway,
        request_id=job.request_id,
        prompt_tail=prepared.prompt_ids[-4 * _PROMPT_TAIL_TOKENS :],
        num_sequences=len(job.sequences),
        stop=sampling.stop,
        min_new_tokens=sampling.min_new_tokens,
        no_stop_trim=sampling.no_stop_trim,
        skip_special_tokens=sampling.skip_special_tokens,
        spaces_between_special_tokens=sampling.spaces_between_special_tokens,
        traceparent=headers.get(TRACEPARENT, ""),
        tracestate=headers.get(TRACESTATE, ""),
    )


def num_prompt_tokens(prepared: PreparedPrompt) -> int:
    """The length of an encoded prompt."""
    return count_u32(prepared.prompt_ids)
