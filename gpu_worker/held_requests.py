"""The requests that this worker has accepted and not finished. Knows neither the engine nor the bus."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gpu_worker.hop_spans import HopSpans
from wire.messages import GenerateJob, Peer, StreamOpen


@dataclass(slots=True, eq=False)
class Stream:
    """One sequence of a request on its way to a detokenizer. `opening` waits for the first batch that names it."""

    stream_id: int
    choice: int
    request: "HeldRequest"
    num_output_tokens: int
    text_len: int
    output_ids: bytes
    is_open: bool = False

    def opening(self, num_prompt_tokens: int, cached_tokens: int) -> StreamOpen:
        """What the detokenizer must know before this stream's first row; to be sent once."""
        self.is_open = True
        job = self.request.job
        opening = StreamOpen(
            stream_id=self.stream_id,
            key=job.key,
            choice=self.choice,
            settings=job.stream,
            output_ids=self.output_ids,
            text_len=self.text_len,
            num_prompt_tokens=num_prompt_tokens,
            cached_tokens=cached_tokens,
            previous_hop=self.request.spans.traceparent,
        )
        self.output_ids = b""
        return opening


@dataclass(slots=True, eq=False)
class HeldRequest:
    """One attempt at a request, with its unfinished streams by id."""

    job: GenerateJob
    received_ns: int
    spans: HopSpans
    streams: dict[int, Stream] = field(default_factory=dict)
    num_finished_output_tokens: int = 0

    @property
    def num_output_tokens(self) -> int:
        """Output ids handed on so far, over all choices, those of earlier attempts included."""
        return self.num_finished_output_tokens + sum(stream.num_output_tokens for stream in self.streams.values())


class HeldRequests:
    """Requests by key and their streams by id. Stream ids rise from 1 and are never reused."""

    def __init__(self) -> None:
        self._requests: dict[int, HeldRequest] = {}
        self.streams: dict[int, Stream] = {}
        self._last_stream_id = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: int) -> bool:
        return key in self._requests

    def __iter__(self) -> Iterator[HeldRequest]:
        return iter(list(self._requests.values()))

    def get(self, key: int) -> HeldRequest | None:
        """The request of this attempt, if it is held."""
        return self._requests.get(key)

    def hold(self, job: GenerateJob, received_ns: int, spans: HopSpans) -> HeldRequest:
        """Takes a job in and gives each of its sequences a stream."""
        request = HeldRequest(job, received_ns, spans)
        for start in job.sequences:
            self._last_stream_id += 1
            num_given = len(start.output_ids) // 4
            stream = Stream(self._last_stream_id, start.choice, request, num_given, start.text_len, start.output_ids)
            request.streams[stream.stream_id] = self.streams[stream.stream_id] = stream
        self._requests[job.key] = request
        return request

    def finish(self, stream: Stream) -> None:
        """Lets a finished stream go, and its request with the last one."""
        request = stream.request
        request.num_finished_output_tokens += stream.num_output_tokens
        del request.streams[stream.stream_id]
        del self.streams[stream.stream_id]
        if not request.streams:
            del self._requests[request.job.key]

    def drop(self, key: int, choice: int | None = None) -> bool:
        """Forgets a request, or one choice of it, unfinished; False if there is nothing of that name."""
        request = self._requests.get(key)
        if request is None:
            return False
        doomed = [stream for stream in request.streams.values() if choice in (None, stream.choice)]
        for stream in doomed:
            self.finish(stream)
        return bool(doomed)

    def of_gateway(self, gateway: Peer) -> list[int]:
        """The keys that this gateway owns."""
        return [key for key, request in self._requests.items() if request.job.gateway == gateway]

    def by_gateway(self) -> Iterable[tuple[Peer, list[HeldRequest]]]:
        """All requests, grouped by the gateway that owns them."""
        groups: dict[Peer, list[HeldRequest]] = {}
        for request in self._requests.values():
            groups.setdefault(request.job.gateway, []).append(request)
        return groups.items()
