"""What a look at an attempt tells: whether it is overdue, whom it needs, and who is to blame. Changes nothing."""

import random

from gateway.inflight.generation import Attempt, Cause, Generation
from gateway.inflight.receipts import Receipts
from wire.messages import ErrorCode, Failed, InstanceState, Stage
from wire.presence import Member, MemberTable

_BEHIND_S = 1.0
_MAX_MISSING = 2
_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0


LOSSES = {
    Stage.TOKENIZER: Cause.TOKENIZER_LOST,
    Stage.WORKER: Cause.WORKER_LOST,
    Stage.DETOKENIZER: Cause.DETOKENIZER_LOST,
}
"""Why an attempt ends when an instance of a stage dies."""

_BLAMED: dict[Cause, str] = {
    Cause.TOKENIZER_LOST: Stage.TOKENIZER,
    Cause.WORKER_LOST: Stage.WORKER,
    Cause.WORKER_HUNG: Stage.WORKER,
    Cause.DETOKENIZER_LOST: Stage.DETOKENIZER,
    Cause.DETOKENIZER_LEFT: Stage.DETOKENIZER,
    Cause.GAP: Stage.DETOKENIZER,
    Cause.BEHIND: Stage.DETOKENIZER,
    Cause.OUTAGE: "broker",
}


def overdue(
    generation: Generation, attempt: Attempt, receipts: Receipts, members: MemberTable, now: float
) -> Cause | None:
    """Why the attempt counts as lost, if some deadline of it has passed."""
    if now - generation.quiet_since < _BEHIND_S and attempt.accept_by is None and attempt.prove_by is None:
        return None  # the usual case, and this is asked ten times a second of every request: its tokens come
    if attempt.accept_by is not None:
        return Cause.NOT_ACCEPTED if receipts.is_lost(attempt.holder_id, attempt.accept_by, now) else None
    # Tokens that keep coming, however late under load, are a sign of life, and a repair would only delay them.
    if now - max(attempt.heard_at, generation.last_token_at) > members.timeout_s and not _is_late(attempt, members):
        return Cause.SILENT
    if attempt.prove_by is not None and now > attempt.prove_by and not _goes_on(generation, attempt):
        return Cause.OUTAGE
    is_behind = attempt.owed > generation.num_from_worker and not _has_stopped_early(generation)
    if is_behind and now - max(attempt.owed_since, generation.quiet_since) > _BEHIND_S:
        return Cause.BEHIND
    worker = members.get(attempt.worker_id) if attempt.worker_id else None
    return Cause.WORKER_HUNG if worker is not None and worker.is_hung else None


def has_progressed(generation: Generation, attempt: Attempt) -> bool:
    """Whether the attempt has brought anything."""
    return generation.num_received > attempt.num_received_before


def is_missing(generation: Generation, attempt: Attempt, now: float) -> bool:
    """Whether the holder's reports leave it out for good. The last tokens of what it is done with may still come."""
    return attempt.num_missing >= _MAX_MISSING and now - generation.last_token_at > _BEHIND_S


def cause_of_loss(member: Member) -> Cause:
    """Why the attempts end that needed an instance which is gone: one that was draining has not crashed."""
    if member.heartbeat.state is not InstanceState.DRAINING:
        return LOSSES[member.heartbeat.stage]
    return Cause.DETOKENIZER_LEFT if member.heartbeat.stage is Stage.DETOKENIZER else Cause.RELEASED


def may_fit_elsewhere(generation: Generation, message: Failed, members: MemberTable) -> bool:
    """Whether a worker refuses what another one has accepted, as its own cache is smaller, and a third is left."""
    attempt, frozen = generation.attempt, generation.dispatched
    if attempt is None or frozen is None or not attempt.is_resume or message.code is not ErrorCode.INVALID_REQUEST:
        return False
    sender_id = message.sender.instance_id
    refused = generation.suspects | {sender_id}
    return sender_id != attempt.tokenizer_id and any(
        worker.instance_id not in refused and worker.heartbeat.model_fingerprint == frozen.model_fingerprint
        for worker in members.ready(Stage.WORKER)
    )


def needed(attempt: Attempt, stage: Stage) -> str:
    """The instance of a stage that the attempt still depends on; a tokenizer only until it has passed it on."""
    if stage is Stage.WORKER:
        return attempt.worker_id
    if stage is Stage.DETOKENIZER:
        return attempt.detokenizer_id
    return "" if attempt.worker_id else attempt.tokenizer_id


def suspect(attempt: Attempt, cause: Cause) -> str:
    """Who is to be avoided next: the holder, unless it has told of tokens that then did not come."""
    return attempt.detokenizer_id if cause is Cause.BEHIND else attempt.holder_id


def blamed(attempt: Attempt, cause: Cause) -> str:
    """The stage that an attempt was lost at, as metrics name it."""
    if cause in _BLAMED:
        return _BLAMED[cause]
    return Stage.WORKER if attempt.worker_id else Stage.TOKENIZER


def backoff(num_repairs: int) -> float:
    """Nothing before the first repeat, then doubling up to a limit, with jitter."""
    if num_repairs <= 1:
        return 0.0
    return min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**num_repairs) * random.uniform(0.5, 1.0)


def patience(waited_s: float, shortest_s: float) -> float:
    """How long the parked wait before they look again: as long as they have waited, up to a limit, with jitter."""
    return min(max(waited_s, shortest_s), _LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0)


def _is_late(attempt: Attempt, members: MemberTable) -> bool:
    """Whether not even the heartbeats of the holder come: then they decide whether it is dead, and nothing was lost."""
    holder = members.get(attempt.holder_id)
    return holder is not None and not members.is_beating(holder)


def _goes_on(generation: Generation, attempt: Attempt) -> bool:
    """Whether a token has come since the doubt, and there is but one choice that it can be of: rows have no gaps."""
    return len(generation.choices) == 1 and generation.last_token_at > attempt.doubted_at


def _has_stopped_early(generation: Generation) -> bool:
    """A stop string ends a choice before the worker knows: its count then holds tokens that nobody will send."""
    return any(choice.finish is not None and isinstance(choice.finish.matched, str) for choice in generation.choices)
