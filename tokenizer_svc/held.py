"""The requests that this tokenizer holds between receipt and dispatch, and the aborts it remembers.

Invariant: an aborted key is not held.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wire.columns import count_u32, pack_u8, pack_u32, pack_u64
from wire.messages import Peer, Progress, RequestState, TokenizeJob
from wire.tombstones import Tombstones


@dataclass(frozen=True, slots=True)
class Held:
    """One attempt at a request, and the task that works on it."""

    job: TokenizeJob
    task: asyncio.Task[None]


class HeldRequests:
    """Knows no bus. Whoever drops a request cancels its task."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._tombstones = Tombstones()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: int) -> bool:
        return key in self._held

    def is_aborted(self, key: int) -> bool:
        """Whether the key was aborted, perhaps before its job came."""
        return self._tombstones.covers(key)

    def hold(self, job: TokenizeJob, task: asyncio.Task[None]) -> None:
        """Takes a request in, whose key is neither held nor aborted."""
        assert job.key not in self._held
        self._held[job.key] = Held(job, task)

    def release(self, key: int) -> None:
        """The request has gone its way; unknown keys are ignored."""
        self._held.pop(key, None)

    def abort(self, key: int) -> None:
        """Drops the request if it is held, and remembers the key, since an abort can overtake its job."""
        self._drop([key])
        self._tombstones.add(key)

    def gateways(self) -> set[Peer]:
        """Whoever has requests here."""
        return {held.job.gateway for held in self._held.values()}

    def drop_requests_of(self, gateway: Peer) -> int:
        """Drops what a dead gateway asked for; returns how many."""
        keys = [key for key, held in self._held.items() if held.job.gateway == gateway]
        self._drop(keys)
        return len(keys)

    def drop_all(self) -> dict[str, list[int]]:
        """Drops everything; the keys by gateway."""
        dropped: dict[str, list[int]] = defaultdict(list)
        for key, held in self._held.items():
            dropped[held.job.gateway.instance_id].append(key)
        self._drop(list(self._held))
        return dropped

    def _drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            held = self._held.pop(key, None)
            if held is not None:
                held.task.cancel()

    def tasks(self) -> list[asyncio.Task[None]]:
        """The work in progress."""
        return [held.task for held in self._held.values()]

    def progress(self, sender: Peer) -> Iterator[tuple[str, Progress]]:
        """One report per gateway that has requests here, with the gateway's id."""
        jobs: dict[str, list[TokenizeJob]] = defaultdict(list)
        for held in self._held.values():
            jobs[held.job.gateway.instance_id].append(held.job)
        for gateway_id, gateways_jobs in jobs.items():
            yield gateway_id, progress_of(sender, gateways_jobs)


def progress_of(sender: Peer, jobs: list[TokenizeJob], *, is_receipt: bool = False) -> Progress:
    """The report on these jobs: before the worker has one, it counts as queued."""
    return Progress(
        sender=sender,
        keys=pack_u64(job.key for job in jobs),
        states=pack_u8(RequestState.QUEUED for _ in jobs),
        queue_positions=pack_u32(0 for _ in jobs),
        num_output_tokens=pack_u32(sum(count_u32(start.output_ids) for start in job.sequences) for job in jobs),
        is_receipt=is_receipt,
    )
