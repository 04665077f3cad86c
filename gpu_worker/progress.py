"""What a worker tells the gateways of the requests that it holds."""

from collections.abc import Iterable, Iterator, Mapping

from gpu_worker.held_requests import HeldRequest, HeldRequests
from wire.columns import pack_u8, pack_u32, pack_u64
from wire.messages import Peer, Progress, RequestState


def reports(held: HeldRequests, sender: Peer, queue_positions: Mapping[int, int]) -> Iterator[tuple[Peer, Progress]]:
    """One `Progress` per gateway; `queue_positions` has the requests that wait, by key, counted from 0."""
    for gateway, requests in held.by_gateway():
        yield gateway, _report(requests, sender, queue_positions, is_receipt=False)


def receipt(request: HeldRequest, sender: Peer, queue_position: int) -> Progress:
    """The acceptance of a job, sent at once."""
    return _report([request], sender, {request.job.key: queue_position}, is_receipt=True)


def _report(
    requests: Iterable[HeldRequest], sender: Peer, queue_positions: Mapping[int, int], *, is_receipt: bool
) -> Progress:
    keys, states, positions, counts = [], [], [], []
    for request in requests:
        position = queue_positions.get(request.job.key)
        keys.append(request.job.key)
        states.append(RequestState.RUNNING if position is None else RequestState.QUEUED)
        positions.append(position or 0)
        counts.append(request.num_output_tokens)
    return Progress(
        sender=sender,
        keys=pack_u64(keys),
        states=pack_u8(states),
        queue_positions=pack_u32(positions),
        num_output_tokens=pack_u32(counts),
        is_receipt=is_receipt,
    )
