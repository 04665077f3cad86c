"""Which requests may be what workers crash of, and what clears one of it. Knows no worker but the one that is lost.

A worker that dies takes everybody along who was with it, and one death says little of any of them. Whoever was there at
a second one soon after begins alone at the next: the innocent get past that, and who is not takes nobody along.
"""

from gateway.inflight.generation import Attempt, Cause, Generation, Standing
from gateway.inflight.verdicts import has_progressed
from wire.presence import MemberTable

MAX_CRASHES = 3
MIN_PROGRESS = 4
"""Tokens of each choice. One that kills in a decode still gives some: each attempt's prefill samples one, and more can
be delivered of steps that overlap."""

_CRASHES = frozenset({Cause.WORKER_LOST, Cause.WORKER_HUNG, Cause.FAILED})


def is_crash(generation: Generation, attempt: Attempt, cause: Cause, members: MemberTable) -> bool:
    """Whether the worker may have died of it. A dead one accepts nothing before it counts as dead; and then it is asked
    once more for what it had, which makes no second death of it. Of a suspect, a worker says first that it begins: one
    that was waiting for its turn has done no harm."""
    is_waiting = generation.is_suspect and generation.standing is not Standing.RUNNING
    if attempt.is_asking or (is_waiting and cause is not Cause.FAILED):
        return False
    worker = members.get(attempt.worker_id) if cause is Cause.NOT_ACCEPTED else None
    return cause in _CRASHES or (worker is not None and not members.is_beating(worker))


def note(generation: Generation, attempt: Attempt, *, has_crashed: bool) -> None:
    """An attempt has ended. A token clears a request of one crash, as its prefill did no harm; of two in a row, only
    real progress does."""
    num_open = sum(choice.finish is None for choice in generation.choices)
    if generation.num_received - generation.num_received_at_crash >= MIN_PROGRESS * num_open:
        generation.num_crashes = 0
    if has_crashed:
        generation.num_crashes += 1
        generation.num_received_at_crash = generation.num_received
    is_unproven = has_crashed and not has_progressed(generation, attempt)
    if has_crashed or has_progressed(generation, attempt):
        generation.is_suspect = is_unproven or generation.num_crashes > 1
