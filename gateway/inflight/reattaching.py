"""The cheap repair: while the worker lives, it goes on, and sends again what was lost. What may be repaired so."""

from gateway.inflight.generation import Attempt, Cause, Generation, HeldAt
from wire.messages import ReattachPoint
from wire.presence import MemberTable

_WORKER_MAY_HOLD_IT = frozenset(
    {Cause.DETOKENIZER_LOST, Cause.DETOKENIZER_LEFT, Cause.GAP, Cause.BEHIND, Cause.MISSING, Cause.OUTAGE}
)
_WORKER_MAY_BE_GONE = frozenset({Cause.SILENT, Cause.NOT_ACCEPTED})


def held_at(generation: Generation, attempt: Attempt, cause: Cause, members: MemberTable) -> HeldAt | None:
    """Where the sequences of an attempt that ends with this cause can still be had; None if nowhere."""
    held = generation.held
    if attempt.worker_id and (attempt.worker_id in attempt.receipts or generation.is_delivering):
        held = HeldAt(attempt.worker_id, attempt.key)
    if held is None or generation.dispatched is None:
        return None
    worker = members.get(held.worker_id)
    if worker is None or worker.is_hung:
        return None
    if cause in _WORKER_MAY_BE_GONE:  # one that beats has lost a message, and is asked, but not twice
        return held if members.is_beating(worker) and attempt.cause not in _WORKER_MAY_BE_GONE else None
    is_kept = cause in _WORKER_MAY_HOLD_IT or (cause is Cause.UNREACHABLE and attempt.is_reattachment)
    return held if is_kept else None


def points(generation: Generation) -> tuple[ReattachPoint, ...]:
    """Where each unfinished choice goes on."""
    return tuple(
        ReattachPoint(choice.index, len(choice.token_ids), choice.text_len)
        for choice in generation.choices
        if choice.finish is None
    )
