"""Requests that the engine is done with while their last rows are still on their way to one detokenizer.

Until it has acknowledged them the gateway is told so; else it could not tell a late row from a lost one.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpu_worker.held_requests import HeldRequest
from wire.messages import Peer


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """What a gateway is told of it."""

    key: int
    gateway: Peer
    num_output_tokens: int


class FinishedRequests:
    """In the order of their last batches. Those whose last rows wait to be sent are in none yet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: list[FinishedRequest] = []
        self._sent: deque[tuple[int, FinishedRequest]] = deque()
        self._heard_at = 0.0

    def __iter__(self) -> Iterator[FinishedRequest]:
        yield from self._waiting
        for _, finished in self._sent:
            yield finished

    def add(self, request: HeldRequest) -> None:
        """Its last row waits to be sent."""
        self._waiting.append(FinishedRequest(request.job.key, request.job.gateway, request.num_output_tokens))

    def discard(self, key: int) -> None:
        """It goes on under another key: of this one nothing is on its way any more that anybody waits for."""
        self._waiting = [finished for finished in self._waiting if finished.key != key]
        self._sent = deque((seq, finished) for seq, finished in self._sent if finished.key != key)

    def note_sent(self, batch_seq: int) -> None:
        """Everything that waited has been sent, the last of it in this batch."""
        if self._waiting:
            if not self._sent:
                self._heard_at = self._clock()
            self._sent.extend((batch_seq, finished) for finished in self._waiting)
            self._waiting.clear()

    def acknowledge(self, batch_seq: int) -> None:
        """Every batch up to `batch_seq` has been processed: what follows from it is the detokenizer's word."""
        self._heard_at = self._clock()
        while self._sent and self._sent[0][0] <= batch_seq:
            self._sent.popleft()

    def forget_sent(self) -> None:
        """Those batches may be lost: the gateways, which hear no more of these requests, find out."""
        self._sent.clear()

    def forget_unheard(self, timeout_s: float) -> None:
        """`forget_sent`, if nothing has been acknowledged for longer than a live detokenizer takes."""
        if self._sent and self._clock() - self._heard_at > timeout_s:
            self._sent.clear()
