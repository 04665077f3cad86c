"""What a worker tells the gateways of the requests that it holds, or has finished and not yet delivered."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gpu_worker.finished_requests import FinishedRequest
from gpu_worker.held_requests import HeldRequest, HeldRequests
from wire.columns import pack_u8, pack_u32, pack_u64
from wire.messages import Peer, Progress, RequestState


class _Row(NamedTuple):
    key: int
    state: RequestState
    queue_position: int
    num_output_tokens: int


def reports(
    held: HeldRequests, finished: Iterable[FinishedRequest], sender: Peer, queue_positions: Mapping[int, int]
) -> Iterator[tuple[Peer, Progress]]:
    """One `Progress` per gateway; `queue_positions` has the requests that wait, by the engine's key, counted from 0."""
    rows: dict[Peer, list[_Row]] = {}
    for request in held:
        rows.setdefault(request.job.gateway, []).append(_held_row(request, queue_positions))
    for done in finished:
        row = _Row(done.key, RequestState.FINISHED, 0, done.num_output_tokens)
        rows.setdefault(done.gateway, []).append(row)
    for gateway, gateway_rows in rows.items():
        yield gateway, _report(gateway_rows, sender, is_receipt=False)


def receipt(request: HeldRequest, sender: Peer, queue_position: int | None) -> Progress:
    """The acceptance of a job or of a re-attachment, sent at once. `queue_position` is None for what runs, or ran."""
    positions = {} if queue_position is None else {request.engine_key: queue_position}
    row = _held_row(request, positions)
    if not request.streams:
        row = row._replace(state=RequestState.FINISHED)
    return _report([row], sender, is_receipt=True)


def _held_row(request: HeldRequest, queue_positions: Mapping[int, int]) -> _Row:
    position = queue_positions.get(request.engine_key)
    state = RequestState.RUNNING if position is None else RequestState.QUEUED
    return _Row(request.job.key, state, position or 0, request.num_output_tokens)


def _report(rows: list[_Row], sender: Peer, *, is_receipt: bool) -> Progress:
    return Progress(
        sender=sender,
        keys=pack_u64(row.key for row in rows),
        states=pack_u8(row.state for row in rows),
        queue_positions=pack_u32(row.queue_position for row in rows),
        num_output_tokens=pack_u32(row.num_output_tokens for row in rows),
        is_receipt=is_receipt,
    )
