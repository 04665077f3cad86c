"""Which batches are done and not yet acknowledged. Knows no bus; whoever asks sends."""

from wire.messages import Peer

MAX_UNACKNOWLEDGED = 16


class Acknowledgements:
    """Per worker: the last batch done, and how many since the last acknowledgement."""

    def __init__(self) -> None:
        self._last_seq: dict[Peer, int] = {}
        self._num_done: dict[Peer, int] = {}

    def done(self, worker: Peer, batch_seq: int) -> bool:
        """Notes a batch; true if its worker should be told now."""
        self._last_seq[worker] = batch_seq
        num_done = self._num_done.get(worker, 0) + 1
        self._num_done[worker] = num_done
        return num_done >= MAX_UNACKNOWLEDGED

    def pending(self) -> list[Peer]:
        """The workers that have not been told of everything."""
        return list(self._last_seq)

    def take(self, worker: Peer) -> int | None:
        """The sequence number to acknowledge; the worker is then up to date. None if it is already."""
        self._num_done.pop(worker, None)
        return self._last_seq.pop(worker, None)
