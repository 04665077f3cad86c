"""Flow control towards one detokenizer: at most so many unacknowledged batches, later ones merge and wait.

Nothing is ever dropped by a slow consumer, and the engine never waits: what cannot be sent grows as longer rows.
"""

import time
from collections import deque
from collections.abc import Callable

from gpu_worker.finished_requests import FinishedRequests
from gpu_worker.held_requests import HeldRequest
from gpu_worker.token_rows import MAX_BATCH_BYTES, PLAIN_ROW_BYTES, PlainRows, TokenRow, as_batch, split
from wire.codec import encode
from wire.messages import Peer, TokenBatch

MAX_UNACKED_BATCHES = 128
MAX_UNACKED_BYTES = 32 * 2**20


class DetokenizerChannel:
    """The rows on their way to one detokenizer. `batch_seq` counts on from `last_seq`."""

    def __init__(self, worker: Peer, clock: Callable[[], float] = time.monotonic, last_seq: int = 0) -> None:
        self._worker = worker
        self._clock = clock
        self.finished = FinishedRequests(clock)
        self._pending: dict[int, TokenRow] = {}
        self._plain = PlainRows()
        self._unacked: deque[tuple[int, int]] = deque()
        self._num_unacked_bytes = 0
        self.last_seq = last_seq
        self._blocked_since: float | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether rows must wait for an acknowledgement."""
        return len(self._unacked) >= MAX_UNACKED_BATCHES or self._num_unacked_bytes >= MAX_UNACKED_BYTES

    @property
    def has_pending(self) -> bool:
        """Whether rows are waiting."""
        return bool(self._pending or self._plain)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waiting and everything sent has been acknowledged."""
        return not self.has_pending and not self._unacked

    def begin_step(self) -> None:
        """The rows that come next belong to a later step than those that wait, and may continue them."""
        if self._plain:
            plain, self._plain = self._plain, PlainRows()
            for row in plain.as_rows():
                self.add(row)

    def add_token(self, stream_id: int, index: int, token_id: int) -> None:
        """`add` for the usual row: one token of a stream that is open and goes on."""
        if self._pending:
            self.add(TokenRow(stream_id, index, [token_id]))
            return
        plain = self._plain
        plain.stream_ids.append(stream_id)
        plain.first_indexes.append(index)
        plain.token_ids.append(token_id)

    def add(self, row: TokenRow) -> None:
        """Takes a row in; it joins the stream's row that is still waiting, if there is one."""
        waiting = self._pending.get(row.stream_id)
        if waiting is None:
            self._pending[row.stream_id] = row
        else:
            waiting.extend(row)

    def finish(self, request: HeldRequest) -> None:
        """No row of this request follows; those that are here or on their way are not acknowledged yet."""
        if not self.is_settled:
            self.finished.add(request)
            if not self.has_pending:
                self.finished.note_sent(self.last_seq)

    def discard(self, stream_id: int) -> None:
        """Forgets the waiting row of a stream that was aborted."""
        self.begin_step()
        self._pending.pop(stream_id, None)

    def take_messages(self, max_bytes: int = MAX_BATCH_BYTES) -> list[bytes]:
        """The encoded batches that may be sent now, of about `max_bytes` at most; rows that may not stay."""
        if not self.has_pending or self.is_blocked:
            return []
        if self._pending or len(self._plain) * PLAIN_ROW_BYTES > max_bytes:
            self.begin_step()
            rows, self._pending = list(self._pending.values()), {}
            messages = [
                self._noted(as_batch(self._worker, self._next_seq(), group)) for group in split(rows, max_bytes)
            ]
        else:
            plain, self._plain = self._plain, PlainRows()
            messages = [self._noted(plain.as_batch(self._worker, self._next_seq()))]
        self.finished.note_sent(self.last_seq)
        self._blocked_since = self._clock() if self.is_blocked else None
        return messages

    def _next_seq(self) -> int:
        self.last_seq += 1
        return self.last_seq

    def _noted(self, batch: TokenBatch) -> bytes:
        message = encode(batch)
        self._unacked.append((batch.batch_seq, len(message)))
        self._num_unacked_bytes += len(message)
        return message

    def acknowledge(self, batch_seq: int) -> None:
        """Every batch up to `batch_seq` has been processed."""
        self.finished.acknowledge(batch_seq)
        while self._unacked and self._unacked[0][0] <= batch_seq:
            _, size = self._unacked.popleft()
            self._num_unacked_bytes -= size
        self._blocked_since = self._clock() if self.is_blocked else None

    def forget_unacked(self) -> None:
        """Those batches may be lost: their acknowledgements will not come, and the gateways repair the gaps."""
        self.finished.forget_sent()
        self._unacked.clear()
        self._num_unacked_bytes = 0
        self._blocked_since = None

    def is_stalled(self, timeout_s: float) -> bool:
        """Whether it has been blocked for longer than a live detokenizer takes to acknowledge anything."""
        return self._blocked_since is not None and self._clock() - self._blocked_since > timeout_s
