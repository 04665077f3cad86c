"""The subjects of the wire contract. Every subject that anybody publishes is made here, from validated parts."""

import hashlib
import re
import secrets

from wire.messages import Stage
from wire.messages.peers import INSTANCE_ID

_PREFIX = "mr.v1"
_ID = re.compile(INSTANCE_ID)


def model_key(served_model_name: str) -> str:
    """A short hash of the served name, which itself may hold dots, slashes and spaces."""
    return hashlib.blake2s(served_model_name.encode(), digest_size=6).hexdigest()


def new_instance_id(stage: Stage) -> str:
    """A random id for one process start; begins with the stage, so that logs read well."""
    return f"{stage.value}-{secrets.token_hex(4)}"


def _checked(instance_id: str) -> str:
    if not _ID.match(instance_id):
        raise ValueError(f"an instance id has 1 to 64 of A-Z a-z 0-9 _ -, got {instance_id[:80]!r}")
    return instance_id


def gateway(instance_id: str) -> str:
    """Everything that is meant for one gateway."""
    return f"{_PREFIX}.gateway.{_checked(instance_id)}"


def data(model: str, stage: Stage, instance_id: str) -> str:
    """Jobs and batches for one instance; `model` is a `model_key`."""
    return f"{_PREFIX}.{model}.{stage.value}.{_checked(instance_id)}"


def control(model: str, stage: Stage, instance_id: str) -> str:
    """Aborts, acknowledgements and re-attachments for one instance."""
    return f"{data(model, stage, instance_id)}.control"


def rpc(model: str, stage: Stage, instance_id: str) -> str:
    """Requests that one instance answers."""
    return f"{data(model, stage, instance_id)}.rpc"


def abort(model: str) -> str:
    """Aborts whose holder is unknown, for every instance that serves the model."""
    return f"{_PREFIX}.{model}.abort"


def kv(model: str, worker_id: str) -> str:
    """One worker's prefix-cache events."""
    return f"{_PREFIX}.{model}.kv.{_checked(worker_id)}"


def presence(stage: Stage, instance_id: str) -> str:
    """One instance's heartbeats."""
    return f"{_PREFIX}.presence.{stage.value}.{_checked(instance_id)}"


def inbox(stage: Stage) -> str:
    """Where replies to a stage arrive; one per stage, so that the broker can keep the others from listening."""
    return f"_INBOX.{stage.value}"


def probe(instance_id: str) -> str:
    """Asks one instance for a heartbeat; the broker answers for one that is gone."""
    return f"{PROBE}.{_checked(instance_id)}"


ALL_PRESENCE = f"{_PREFIX}.presence.*.*"
PROBE = f"{_PREFIX}.probe"
