"""Who is there: instances, their state and their load."""

import enum
from typing import Annotated

import msgspec

INSTANCE_ID = r"\A[A-Za-z0-9_-]{1,64}\Z"
"""Ids are parts of subjects; a message that names another kind of id does not decode."""

Key = Annotated[int, msgspec.Meta(ge=0)]
"""A u64, which is also the most that an integer on the wire can be."""


class Stage(enum.StrEnum):
    """The four stages of the pipeline, as they are named in subjects and on the command line."""

    GATEWAY = "gateway"
    TOKENIZER = "tokenizer"
    WORKER = "worker"
    DETOKENIZER = "detokenizer"


class InstanceState(enum.StrEnum):
    """Only a `ready` instance is given new work."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    LEAVING = "leaving"


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """One life of one process. `instance_id` is random per process start.

    `epoch` is 1: nobody raises it, and whoever reads it honours it (docs/decisions/keys-are-the-fence.md).
    """

    instance_id: Annotated[str, msgspec.Meta(pattern=INSTANCE_ID)]
    epoch: int


class Heartbeat(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Every 500 ms and on every change of state, from every instance to all.

    `backlog_s` is the instance's own estimate of how long new work waits for it, in seconds. `step_age_s` is the
    age of the engine step in progress; 0 when the engine is idle. Above `step_timeout_s` it counts as hung.
    """

    stage: Stage
    peer: Peer
    state: InstanceState
    served_model_name: str
    wire_level: int
    num_running: int = 0
    num_waiting: int = 0
    backlog_s: float = 0.0
    model_fingerprint: str = ""
    context_length: int = 0
    num_pages_used: int = 0
    num_pages_total: int = 0
    page_size: int = 0
    step: int = 0
    step_age_s: float = 0.0
    num_states: int = 0
    counters: dict[str, int] = {}
    step_timeout_s: float = 60.0


class PresenceProbe(msgspec.Struct, frozen=True, tag=True):
    """Asks every instance for a heartbeat at once."""

    sender: Peer
