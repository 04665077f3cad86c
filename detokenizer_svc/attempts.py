"""Which streams exist: by worker and stream id for the batches, by key for aborts, by peer for losses.

Invariant: an attempt is here exactly while one of its sequences has neither ended nor been dropped.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry.trace import Span

from detokenizer_svc.stream import Stream
from wire.messages import Peer, StreamOpen, StreamSettings
from wire.telemetry import NO_SPAN
from wire.tombstones import Tombstones

_MAX_CLOSED_PER_WORKER = 10_000


@dataclass(slots=True, eq=False)
class Attempt:
    """One key: the sequences that one worker generates for one attempt at a request."""

    key: int
    worker: Peer
    settings: StreamSettings
    span: Span = NO_SPAN
    open: "dict[int, OpenStream]" = field(default_factory=dict)
    ended_choices: set[int] = field(default_factory=set)
    num_output_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)

    @property
    def gateway(self) -> Peer:
        """Whom the text goes to."""
        return self.settings.gateway

    @property
    def progress(self) -> tuple[int, int]:
        """Ids taken in, and sequences begun: changes with whatever comes of this attempt."""
        num_open = sum(open_stream.stream.next_index for open_stream in self.open.values())
        return self.num_output_tokens + num_open, len(self.open) + len(self.ended_choices)

    @property
    def is_over(self) -> bool:
        """Whether every sequence that the attempt was to open has ended."""
        return not self.open and len(self.ended_choices) >= self.settings.num_sequences


@dataclass(slots=True, eq=False)
class OpenStream:
    """A stream and whose it is. `is_new` until its first row is on its way."""

    attempt: Attempt
    opened: StreamOpen
    stream: Stream
    key: int
    choice: int
    gateway_id: str
    opened_ns: int
    is_new: bool = True


@dataclass(slots=True, eq=False)
class WorkerStreams:
    """The streams of one life of a worker. Rows of a `closed` stream are ignored: the worker does not know yet."""

    worker: Peer
    open: dict[int, OpenStream] = field(default_factory=dict)
    closed: dict[int, None] = field(default_factory=dict)

    def close(self, stream_id: int) -> None:
        """From now on rows of this stream are ignored. Remembers a bounded number; the oldest go first."""
        self.open.pop(stream_id, None)
        self.closed[stream_id] = None
        if len(self.closed) > _MAX_CLOSED_PER_WORKER:
            del self.closed[next(iter(self.closed))]


class AttemptWatcher(Protocol):
    """Who wants to know of attempts as a whole."""

    def on_opened(self, attempt: Attempt, opened: StreamOpen, now_ns: int) -> None:
        """The first stream of an attempt was opened."""

    def on_over(self, attempt: Attempt, cause: str) -> None:
        """The last sequence of an attempt has ended, or the attempt was dropped."""


class AttemptTable:
    """All attempts in hand. `watcher` is told of each when it comes and when it leaves."""

    def __init__(self, watcher: AttemptWatcher, clock: Callable[[], float] = time.monotonic) -> None:
        self._watcher = watcher
        self._attempts: dict[int, Attempt] = {}
        self._workers: dict[Peer, WorkerStreams] = {}
        self.tombstones = Tombstones(clock=clock)
        self.is_empty = asyncio.Event()
        self.is_empty.set()

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def num_streams(self) -> int:
        """Streams held."""
        return sum(len(worker.open) for worker in self._workers.values())

    def attempts(self) -> Iterable[Attempt]:
        """Every attempt in hand."""
        return self._attempts.values()

    def peers(self) -> set[Peer]:
        """Every worker and gateway that something is held for."""
        return set(self._workers) | {attempt.gateway for attempt in self._attempts.values()}

    def worker(self, worker: Peer) -> WorkerStreams:
        """The streams of a worker; an empty set of them if it has none."""
        return self._workers.get(worker) or WorkerStreams(worker)

    def open(self, worker: Peer, opened: StreamOpen, stream: Stream, now_ns: int) -> OpenStream | None:
        """Takes a stream in; None if an abort for it came first.

        Keys and stream ids are unique. Should a peer repeat one, the later stream counts and nothing is left behind.
        """
        streams = self._workers.setdefault(worker, WorkerStreams(worker))
        self._make_room(streams, opened)
        if self.tombstones.covers(opened.key, opened.choice):
            streams.close(opened.stream_id)
            return None
        attempt = self._attempts.get(opened.key)
        if attempt is None:
            attempt = Attempt(opened.key, worker, opened.settings)
            attempt.ended_choices = self._aborted_choices(opened)
            self._attempts[opened.key] = attempt
            self.is_empty.clear()
            self._watcher.on_opened(attempt, opened, now_ns)
        gateway_id = attempt.gateway.instance_id
        new = OpenStream(attempt, opened, stream, opened.key, opened.choice, gateway_id, now_ns)
        streams.closed.pop(opened.stream_id, None)
        streams.open[opened.stream_id] = attempt.open[opened.choice] = new
        return new

    def _aborted_choices(self, opened: StreamOpen) -> set[int]:
        """Those that nobody has to wait for: the worker, told of the abort as well, may never open them."""
        choices = range(opened.settings.num_sequences)
        return {choice for choice in choices if self.tombstones.covers(opened.key, choice)}

    def _make_room(self, streams: WorkerStreams, opened: StreamOpen) -> None:
        same_id = streams.open.get(opened.stream_id)
        if same_id is not None:
            self.end(same_id, is_ended_by_worker=True, cause="replaced")
        attempt = self._attempts.get(opened.key)
        if attempt is not None and attempt.worker != streams.worker:
            self._drop(attempt, "replaced")
        elif attempt is not None and opened.choice in attempt.open:
            self.end(attempt.open[opened.choice], is_ended_by_worker=False, cause="replaced")

    def end(self, ended: OpenStream, *, is_ended_by_worker: bool, cause: str = "finished") -> None:
        """A stream is over. Unless the worker itself ended it, its later rows are ignored."""
        attempt = ended.attempt
        streams = self.worker(attempt.worker)
        if is_ended_by_worker:
            streams.open.pop(ended.opened.stream_id, None)
        else:
            streams.close(ended.opened.stream_id)
        attempt.open.pop(ended.choice, None)
        attempt.ended_choices.add(ended.choice)
        attempt.num_output_tokens += ended.stream.next_index
        if attempt.is_over:
            self._forget(attempt, cause)

    def abort(self, key: int, choice: int | None) -> None:
        """Drops an attempt, or one choice of it; what of it comes later is ignored for a minute."""
        self.tombstones.add(key, choice)
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        if choice is None:
            self._drop(attempt, "aborted")
        elif choice in attempt.open:
            self.end(attempt.open[choice], is_ended_by_worker=False, cause="aborted")
        else:
            attempt.ended_choices.add(choice)
            if attempt.is_over:
                self._forget(attempt, "aborted")

    def drop_gateway(self, gateway: Peer) -> None:
        """The gateway is gone, in this life or an earlier one: nobody reads the text of its requests."""
        for attempt in [a for a in self._attempts.values() if _is_over_with(gateway, a.gateway)]:
            self._drop(attempt, "gateway lost")

    def drop_worker(self, worker: Peer) -> None:
        """The worker is gone: no more rows will come, and its closed streams need no memory."""
        for attempt in [a for a in self._attempts.values() if _is_over_with(worker, a.worker)]:
            self._drop(attempt, "worker lost")
        for peer in [peer for peer in self._workers if _is_over_with(worker, peer)]:
            del self._workers[peer]

    def drop_all(self, cause: str) -> None:
        """Lets go of everything."""
        for attempt in list(self._attempts.values()):
            self._drop(attempt, cause)

    def _drop(self, attempt: Attempt, cause: str) -> None:
        streams = self.worker(attempt.worker)
        for open_stream in attempt.open.values():
            attempt.num_output_tokens += open_stream.stream.next_index
            streams.close(open_stream.opened.stream_id)
        attempt.open.clear()
        self._forget(attempt, cause)

    def _forget(self, attempt: Attempt, cause: str) -> None:
        del self._attempts[attempt.key]
        if not self._attempts:
            self.is_empty.set()
        self._watcher.on_over(attempt, cause)


def _is_over_with(lost: Peer, held: Peer) -> bool:
    return held.instance_id == lost.instance_id and held.epoch <= lost.epoch
