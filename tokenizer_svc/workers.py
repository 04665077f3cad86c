"""Which worker gets a job: the less loaded of two that may have it. Knows members, not the bus."""

from collections.abc import Collection

from tokenizer_svc.errors import RequestError
from wire.messages import ErrorCode, Stage
from wire.presence import Member, MemberTable, choose


def choose_worker(
    members: MemberTable, served_model_name: str, *, excluded: Collection[str] = (), fingerprint: str = ""
) -> Member:
    """A ready worker that neither is excluded nor hangs in a step; of that very model, if a fingerprint is given.

    Raises a retryable `RequestError` that says what there was.
    """
    ready = members.ready(Stage.WORKER, served_model_name)
    allowed = [worker for worker in ready if worker.instance_id not in excluded]
    matching = [worker for worker in allowed if fingerprint in ("", worker.heartbeat.model_fingerprint)]
    worker = choose(worker for worker in matching if not worker.is_hung)
    if worker is None:
        raise _unavailable(served_model_name, len(ready), len(allowed), len(matching), fingerprint)
    return worker


def longest_sequence(members: MemberTable, served_model_name: str) -> int | None:
    """How many tokens a sequence can have at every ready worker, so that any of them can go on with it; None if nobody
    has said."""
    told = (worker.heartbeat.context_length for worker in members.ready(Stage.WORKER, served_model_name))
    return min((length for length in told if length), default=None)


def _unavailable(
    served_model_name: str, num_ready: int, num_allowed: int, num_matching: int, fingerprint: str
) -> RequestError:
    if num_matching:
        reason = f"all {num_matching} workers that could hang in a step"
    elif num_allowed:
        reason = f"none of the {num_allowed} ready workers has the model fingerprint {fingerprint}"
    elif num_ready:
        reason = f"all {num_ready} ready workers are excluded or unreachable"
    else:
        reason = "no worker is ready"
    return RequestError(
        ErrorCode.UNAVAILABLE, f"No worker can take the request for {served_model_name}: {reason}.", is_retryable=True
    )
