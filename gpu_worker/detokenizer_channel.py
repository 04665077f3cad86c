"""Flow control towards one detokenizer: at most so many unacknowledged batches, later ones merge and wait.

Nothing is ever dropped by a slow consumer, and the engine never waits: what cannot be sent grows as longer rows.
"""

import time
from collections import deque
from collections.abc import Callable

from gpu_worker.token_rows import MAX_BATCH_BYTES, TokenRow, as_batch, split
from wire.codec import encode
from wire.messages import Peer

MAX_UNACKED_BATCHES = 128
MAX_UNACKED_BYTES = 32 * 2**20


class DetokenizerChannel:
    """The rows on their way to one detokenizer. `batch_seq` counts from 1."""

    def __init__(self, worker: Peer, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._pending: dict[int, TokenRow] = {}
        self._unacked: deque[tuple[int, int]] = deque()
        self._num_unacked_bytes = 0
        self._last_seq = 0
        self._blocked_since: float | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether rows must wait for an acknowledgement."""
        return len(self._unacked) >= MAX_UNACKED_BATCHES or self._num_unacked_bytes >= MAX_UNACKED_BYTES

    @property
    def has_pending(self) -> bool:
        """Whether rows are waiting."""
        return bool(self._pending)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waiting and everything sent has been acknowledged."""
        return not self._pending and not self._unacked

    def add(self, row: TokenRow) -> None:
        """Takes a row in; it joins the stream's row that is still waiting, if there is one."""
        waiting = self._pending.get(row.stream_id)
        if waiting is None:
            self._pending[row.stream_id] = row
        else:
            waiting.extend(row)

    def discard(self, stream_id: int) -> None:
        """Forgets the waiting row of a stream that was aborted."""
        self._pending.pop(stream_id, None)

    def take_messages(self, max_bytes: int = MAX_BATCH_BYTES) -> list[bytes]:
        """The encoded batches that may be sent now, of about `max_bytes` at most; rows that may not stay."""
        if not self._pending or self.is_blocked:
            return []
        messages = []
        for rows in split(list(self._pending.values()), max_bytes):
            self._last_seq += 1
            message = encode(as_batch(self._worker, self._last_seq, rows))
            self._unacked.append((self._last_seq, len(message)))
            self._num_unacked_bytes += len(message)
            messages.append(message)
        self._pending.clear()
        self._blocked_since = self._clock() if self.is_blocked else None
        return messages

    def acknowledge(self, batch_seq: int) -> None:
        """Every batch up to `batch_seq` has been processed."""
        while self._unacked and self._unacked[0][0] <= batch_seq:
            _, size = self._unacked.popleft()
            self._num_unacked_bytes -= size
        self._blocked_since = self._clock() if self.is_blocked else None

    def forget_unacked(self) -> None:
        """Those batches may be lost: their acknowledgements will not come, and the gateways repair the gaps."""
        self._unacked.clear()
        self._num_unacked_bytes = 0
        self._blocked_since = None

    def is_stalled(self, timeout_s: float) -> bool:
        """Whether it has been blocked for longer than a live detokenizer takes to acknowledge anything."""
        return self._blocked_since is not None and self._clock() - self._blocked_since > timeout_s
