"""A request goes on under a new key and towards another detokenizer, or the same one again: nothing is computed twice.

Everything from the points on is sent again; what came before them is replayed at the detokenizer.
"""

import msgspec

from gpu_worker.held_requests import HeldRequest, HeldRequests, Stream
from gpu_worker.result_router import ResultRouter
from gpu_worker.token_rows import TokenRow
from wire.columns import pack_u32
from wire.messages import Reattach, ReattachPoint


def reattach(held: HeldRequests, router: ResultRouter, message: Reattach, now_ns: int) -> HeldRequest | None:
    """The re-keyed request, its rows in their channel; None if this worker cannot go on from the points.

    Choices that the message does not name are done with: the caller stops those that still run.
    """
    request = held.find(message.old_key)
    if request is None or request.job.gateway.instance_id != message.sender.instance_id:
        return None
    streams = {stream.choice: stream for stream in (*request.ended, *request.streams.values())}
    named = [(streams.get(point.choice), point) for point in message.points]
    asked = [(stream, point) for stream, point in named if stream is not None and _can_continue(stream, point)]
    if len(asked) != len(message.points):
        return None
    router.discard(request, streams.values())
    job = request.job
    settings = msgspec.structs.replace(
        job.stream,
        num_sequences=len(message.points),
        traceparent=message.traceparent,
        tracestate=message.tracestate,
    )
    job = msgspec.structs.replace(
        job, key=message.new_key, detokenizer=message.detokenizer, stream=settings, attempt=message.attempt
    )
    held.rekey(request, job)
    request.spans.move(job, now_ns)
    for stream, point in asked:
        _rewind(stream, point, held.next_stream_id())
        if stream.sequence is not None or stream not in request.streams.values():
            router.channel(job.detokenizer).add(_row_from(stream, point))
    if not request.streams:
        router.channel(job.detokenizer).finish(request)
        reasons = [stream.finish.reason.value for stream in request.ended if stream.finish]
        request.spans.finish(reasons, request.num_output_tokens, now_ns)
    return request


def _can_continue(stream: Stream, point: ReattachPoint) -> bool:
    return stream.num_given <= point.next_index <= stream.num_output_tokens and point.text_len >= 0


def _rewind(stream: Stream, point: ReattachPoint, stream_id: int) -> None:
    stream.stream_id = stream_id
    stream.is_open = False
    stream.replayed_ids = pack_u32(stream.output_ids()[: point.next_index])
    stream.text_len = point.text_len


def _row_from(stream: Stream, point: ReattachPoint) -> TokenRow:
    return TokenRow(
        stream.stream_id,
        point.next_index,
        stream.output_ids()[point.next_index :].tolist(),
        stream.logprobs[point.next_index - stream.num_given :],
        opening=stream.opening(),
        finish=stream.finish,
    )
