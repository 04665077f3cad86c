"""The requests that this worker has accepted, and for a short time those that it has finished, since their last tokens
may be asked for again. Knows neither the engine nor the bus."""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from gpu_worker.hop_spans import HopSpans
from gpu_worker.scheduling.batch import TokenLogprobs
from gpu_worker.scheduling.sequence import Sequence, as_token_ids
from wire.messages import GenerateJob, Peer, StreamFinish, StreamOpen

KEPT_S = 5.0


@dataclass(slots=True, eq=False)
class Stream:
    """One sequence of a request on its way to a detokenizer.

    `sequence_id` is the engine's name for it; `stream_id` is the detokenizer's, and a new one after a re-attachment.
    `given_ids` (u32 column) came with the job. `replayed_ids` and `text_len` are where the opening starts; it waits
    for the first batch that names the stream. `sequence` is known from the first result on, `finish` at the end.
    """

    sequence_id: int
    stream_id: int
    choice: int
    request: "HeldRequest"
    given_ids: bytes
    replayed_ids: bytes
    text_len: int
    num_output_tokens: int
    is_open: bool = False
    sequence: Sequence | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: StreamFinish | None = None

    @property
    def num_given(self) -> int:
        """Output ids that came with the job."""
        return len(self.given_ids) // 4

    def output_ids(self) -> "array[int]":
        """Every output id that was handed on so far, those of earlier attempts included."""
        if self.sequence is None:
            return as_token_ids(self.given_ids)
        start = self.sequence.num_prompt_tokens
        return self.sequence.token_ids[start : start + self.num_output_tokens]

    def opening(self) -> StreamOpen:
        """What the detokenizer must know before this stream's first row; to be sent once."""
        self.is_open = True
        job, sequence = self.request.job, self.sequence
        return StreamOpen(
            stream_id=self.stream_id,
            key=job.key,
            choice=self.choice,
            settings=job.stream,
            output_ids=self.replayed_ids,
            text_len=self.text_len,
            num_prompt_tokens=len(job.prompt_ids) // 4,
            cached_tokens=(sequence.num_cached_tokens or 0) if sequence else 0,
            previous_hop=self.request.spans.traceparent,
        )


@dataclass(slots=True, eq=False)
class HeldRequest:
    """One attempt at a request: its unfinished streams by the engine's id, and those that have ended.

    `job` has the present key and detokenizer; `engine_key` is the key that it came with, which the engine keeps.
    """

    job: GenerateJob
    received_ns: int
    spans: HopSpans
    engine_key: int
    streams: dict[int, Stream] = field(default_factory=dict)
    ended: list[Stream] = field(default_factory=list)
    past_keys: list[int] = field(default_factory=list)

    @property
    def num_output_tokens(self) -> int:
        """Output ids handed on so far, over all choices, those of earlier attempts included."""
        return sum(stream.num_output_tokens for stream in (*self.streams.values(), *self.ended))


class HeldRequests:
    """Requests by key, their streams by the engine's id. Stream ids rise from 1 and are never reused.

    A request whose streams have all ended is no longer held, but kept for `KEPT_S`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[int, HeldRequest] = {}
        self._kept: dict[int, tuple[HeldRequest, float]] = {}
        self._by_past_key: dict[int, HeldRequest] = {}
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

    def find(self, key: int) -> HeldRequest | None:
        """The request that has or had this key, held or still kept."""
        kept = self._kept.get(key)
        return self._requests.get(key) or (kept[0] if kept else self._by_past_key.get(key))

    def of_engine(self, engine_key: int) -> HeldRequest | None:
        """The held request that the engine knows by this key."""
        request = self._requests.get(engine_key) or self._by_past_key.get(engine_key)
        return request if request is not None and request.job.key in self._requests else None

    def hold(self, job: GenerateJob, received_ns: int, spans: HopSpans) -> HeldRequest:
        """Takes a job in and gives each of its sequences a stream."""
        request = HeldRequest(job, received_ns, spans, engine_key=job.key)
        for start in job.sequences:
            stream_id = self.next_stream_id()
            ids = start.output_ids
            stream = Stream(stream_id, stream_id, start.choice, request, ids, ids, start.text_len, len(ids) // 4)
            request.streams[stream_id] = self.streams[stream_id] = stream
        self._requests[job.key] = request
        return request

    def next_stream_id(self) -> int:
        """An id that no stream has had."""
        self._last_stream_id += 1
        return self._last_stream_id

    def end(self, stream: Stream, finish: StreamFinish | None) -> None:
        """A stream has finished, or (without `finish`) a stop string has ended it; its request with the last one."""
        request = stream.request
        stream.finish = finish
        request.ended.append(stream)
        self._let_go(stream)
        if not request.streams:
            del self._requests[request.job.key]
            self._kept[request.job.key] = (request, self._clock() + KEPT_S)

    def drop(self, key: int) -> bool:
        """Forgets a request, unfinished or kept; False if there is none of that key."""
        request = self._requests.pop(key, None)
        kept = self._kept.pop(key, None)
        if request is not None:
            for stream in list(request.streams.values()):
                self._let_go(stream)
        if found := request or (kept[0] if kept else None):
            self._forget_past_keys(found)
        return request is not None

    def rekey(self, request: HeldRequest, job: GenerateJob) -> None:
        """Gives a request its next key, and with it a detokenizer; the old key still finds it."""
        old_key, request.job = request.job.key, job
        request.past_keys.append(old_key)
        self._by_past_key[old_key] = request
        if old_key in self._requests:
            self._requests[job.key] = self._requests.pop(old_key)
        else:
            del self._kept[old_key]
            self._kept[job.key] = (request, self._clock() + KEPT_S)

    def keep_longer(self) -> None:
        """Nobody could ask for anything until now: the time of all that is kept starts anew."""
        until = self._clock() + KEPT_S
        self._kept = {key: (request, until) for key, (request, _) in self._kept.items()}

    def forget_kept(self) -> None:
        """Forgets what has been kept long enough."""
        now = self._clock()
        while self._kept:
            key, (request, until) = next(iter(self._kept.items()))
            if until > now:
                return
            del self._kept[key]
            self._forget_past_keys(request)

    def of_gateway(self, gateway: Peer) -> list[int]:
        """The keys that this gateway owns."""
        return [key for key, request in self._requests.items() if request.job.gateway == gateway]

    def by_gateway(self) -> Iterable[tuple[Peer, list[HeldRequest]]]:
        """All requests, grouped by the gateway that owns them."""
        groups: dict[Peer, list[HeldRequest]] = {}
        for request in self._requests.values():
            groups.setdefault(request.job.gateway, []).append(request)
        return groups.items()

    def _let_go(self, stream: Stream) -> None:
        del stream.request.streams[stream.sequence_id]
        del self.streams[stream.sequence_id]

    def _forget_past_keys(self, request: HeldRequest) -> None:
        for key in request.past_keys:
            self._by_past_key.pop(key, None)
