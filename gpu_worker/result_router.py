"""From the engine's step results to rows for each detokenizer, and to the requests that they finish."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpu_worker.detokenizer_channel import DetokenizerChannel
from gpu_worker.finished_requests import FinishedRequest
from gpu_worker.held_requests import HeldRequest, HeldRequests, Stream
from gpu_worker.scheduling.batch import StepResult
from gpu_worker.scheduling.sequence import Finish, Sequence
from gpu_worker.token_rows import TokenRow
from wire.messages import FinishReason, Peer, StreamFinish
from wire.presence import MemberTable


@dataclass(frozen=True, slots=True)
class BrokenRequest:
    """A request that the engine could not go on with."""

    request: HeldRequest
    message: str


class ResultRouter:
    """Owns the channels to the detokenizers. Streams that are no longer held (aborted, say) are passed over."""

    def __init__(self, worker: Peer, held: HeldRequests) -> None:
        self._worker = worker
        self._held = held
        self.channels: dict[str, DetokenizerChannel] = {}
        self._last_seq = 0  # of the channels that were forgotten

    def channel(self, detokenizer: Peer) -> DetokenizerChannel:
        """The channel to this detokenizer, made on first use."""
        found = self.channels.get(detokenizer.instance_id)
        if found is None:
            found = DetokenizerChannel(self._worker, last_seq=self._last_seq)
            self.channels[detokenizer.instance_id] = found
        return found

    def forget_channel(self, detokenizer_id: str) -> None:
        """Its detokenizer is gone. Should it come back, what it still acknowledges is none of the next channel's."""
        channel = self.channels.pop(detokenizer_id, None)
        if channel is not None:
            self._last_seq = max(self._last_seq, channel.last_seq)

    @property
    def is_settled(self) -> bool:
        """Whether the detokenizers have processed everything."""
        return all(channel.is_settled for channel in self.channels.values())

    def finished(self) -> Iterator[FinishedRequest]:
        """The requests whose last rows are still on their way to their detokenizers."""
        for channel in self.channels.values():
            yield from channel.finished

    def route(self, result: StepResult) -> list[BrokenRequest]:
        """Hands every row to its channel; returns the requests that broke, which are then no longer held."""
        broken: list[BrokenRequest] = []
        counts, first_indexes, token_ids = result.counts, result.first_indexes, result.token_ids
        finishes, logprobs, streams = result.finishes, result.logprobs, self._held.streams
        for channel in self.channels.values():
            channel.begin_step()
        start = 0
        for index, sequence in enumerate(result.sequences):
            end = start + counts[index]
            stream = streams.get(sequence.sequence_id)
            if stream is not None:
                if stream.is_open and counts[index] == 1 and index not in finishes and index not in logprobs:
                    stream.num_output_tokens = first_indexes[index] + 1
                    channel = self.channel(stream.request.job.detokenizer)
                    channel.add_token(stream.stream_id, first_indexes[index], token_ids[start])
                else:
                    row = TokenRow(stream.stream_id, first_indexes[index], token_ids[start:end])
                    row.logprobs = list(logprobs.get(index, ()))
                    self._add_or_break(stream, sequence, row, finishes.get(index), broken)
            start = end
        return broken

    def drop(self, key: int, reason: str = FinishReason.ABORT) -> bool:
        """Forgets a request and what waits to be sent of it."""
        request = self._held.get(key)
        if request is not None:
            self.discard(request, list(request.streams.values()))
            request.spans.finish([reason], request.num_output_tokens, time.time_ns())
        return self._held.drop(key)

    def stop(self, key: int, choice: int) -> bool:
        """A stop string has ended one choice: no more of it is sent, unless somebody asks for it again."""
        request = self._held.get(key)
        stopped = [s for s in request.streams.values() if s.choice == choice] if request is not None else []
        if request is None or not stopped:
            return False
        self.discard(request, stopped)
        for stream in stopped:
            self._held.end(stream, None)
        if not request.streams:
            request.spans.finish([FinishReason.STOP], request.num_output_tokens, time.time_ns())
        channel = self.channels.get(request.job.detokenizer.instance_id)
        if channel is not None and not request.streams:
            channel.finish(request)  # its other choices have ended by themselves
        return True

    def discard(self, request: HeldRequest, streams: Iterable[Stream]) -> None:
        """Forgets the waiting rows of these streams of a request, and of one that has ended that they wait."""
        channel = self.channels.get(request.job.detokenizer.instance_id)
        if channel is not None:  # none was needed yet, or its detokenizer is lost
            for stream in streams:
                channel.discard(stream.stream_id)
            if not request.streams:
                channel.finished.discard(request.job.key)

    def prune(self, members: MemberTable) -> None:
        """Forgets the channels that nobody needs, to detokenizers that nobody hears: a late row makes one again."""
        absent = [detokenizer for detokenizer in self.channels if members.get(detokenizer) is None]
        if not absent:
            return
        used = {request.job.detokenizer.instance_id for request in self._held}
        for detokenizer in absent:
            if detokenizer not in used and not any(self.channels[detokenizer].finished):
                self.forget_channel(detokenizer)

    def _add_or_break(
        self, stream: Stream, sequence: Sequence, row: TokenRow, finish: Finish | None, broken: list[BrokenRequest]
    ) -> None:
        if finish is not None and finish.reason == "error":
            broken.append(BrokenRequest(stream.request, finish.message))
            self.drop(stream.request.job.key, finish.reason)
        else:
            self._add_row(stream, sequence, row, finish)

    def _add_row(self, stream: Stream, sequence: Sequence, row: TokenRow, finish: Finish | None) -> None:
        request = stream.request
        stream.num_output_tokens = row.first_index + len(row.token_ids)
        stream.logprobs += row.logprobs
        if not stream.is_open:
            stream.sequence = sequence
            times, cached_tokens = sequence.times, sequence.num_cached_tokens or 0
            if row.token_ids:
                request.spans.first_token(times.first_scheduled_ns, times.first_token_ns, cached_tokens)
            row.opening = stream.opening()
        if finish is not None:
            row.finish = _stream_finish(sequence, finish)
            self._held.end(stream, row.finish)
            if not request.streams:
                request.spans.finish([finish.reason], request.num_output_tokens, sequence.times.finished_ns)
        channel = self.channel(request.job.detokenizer)
        channel.add(row)
        if not request.streams:
            channel.finish(request)


def _stream_finish(sequence: Sequence, finish: Finish) -> StreamFinish:
    times = sequence.times
    return StreamFinish(
        0,
        FinishReason(finish.reason),
        finish.matched,
        sequence.num_prompt_tokens,
        sequence.num_output_tokens,
        sequence.num_cached_tokens or 0,
        times.arrival_ns,
        times.first_scheduled_ns,
        times.first_token_ns,
        times.finished_ns,
        sequence.num_preemptions,
        finish.message,
    )
