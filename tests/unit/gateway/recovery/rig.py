"""One request in flight, every stage alive, and time at a standstill."""

from typing import Any

from gateway.inflight.generation import Attempt, Cause, Generation, Standing
from gateway.inflight.in_flight import InFlight
from gateway.inflight.recovery import TICK_S, Recovery
from tests.unit.gateway.streams import (
    DETOKENIZER,
    TOKENIZER,
    WORKER,
    Counted,
    Ended,
    StillClock,
    attempt_of,
    generation_of,
)
from wire.columns import pack_u8, pack_u32, pack_u64
from wire.messages import (
    Dispatched,
    ErrorCode,
    Failed,
    Heartbeat,
    InstanceState,
    Peer,
    Progress,
    RequestState,
    Stage,
)
from wire.presence import MemberTable
from wire.sampling import SamplingParams

PEERS = {Stage.TOKENIZER: TOKENIZER, Stage.WORKER: WORKER, Stage.DETOKENIZER: DETOKENIZER}


class Rig:
    """A generation with key 1, and all that judges it."""

    def __init__(self, heartbeat_timeout_s: float = 2.0) -> None:
        self.clock = StillClock()
        self.in_flight = InFlight()
        self.counted = Counted()
        self.ended = Ended()
        self.members = MemberTable(heartbeat_timeout_s, self.clock)
        for stage in PEERS:
            self.beat(stage)
        self.recovery = Recovery(
            self.in_flight, self.members, self.counted, 120.0, self.ended.fail, self.ended.end_attempt, self.clock
        )
        self.members.on_lost.append(lambda member, _: self.recovery.lost(member))
        self.generation: Generation = generation_of(self.in_flight)
        self.attempt: Attempt = attempt_of(
            self.in_flight, self.generation, 1, accept_by=self.recovery.acceptance_deadline(), heard_at=self.clock.now
        )

    def beat(self, stage: Stage, **fields: Any) -> None:
        """A heartbeat."""
        known: dict[str, Any] = {"stage": stage, "peer": PEERS[stage], "state": InstanceState.READY}
        self.members.hear(Heartbeat(**(known | fields), served_model_name="m", wire_level=1))

    def wait(self, seconds: float) -> None:
        """Lets time pass, tick by tick; heartbeats that do not come are for the test to judge."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.now += TICK_S
            self.recovery.tick()

    def report(
        self,
        sender: Peer,
        *keys: int,
        num_tokens: int = 0,
        is_receipt: bool = False,
        state: RequestState = RequestState.RUNNING,
    ) -> None:
        """A `Progress`."""
        self.recovery.reports.progress(
            Progress(
                sender=sender,
                keys=pack_u64(keys),
                states=pack_u8([state] * len(keys)),
                queue_positions=pack_u32([0] * len(keys)),
                num_output_tokens=pack_u32([num_tokens] * len(keys)),
                is_receipt=is_receipt,
            )
        )

    def dispatch(self) -> None:
        """The tokenizer passes it on, whatever attempt it is."""
        self.recovery.reports.dispatched(
            Dispatched(
                key=self.generation.attempt.key if self.generation.attempt else 0,
                tokenizer=TOKENIZER,
                worker=WORKER,
                prompt_ids=b"",
                sampling=SamplingParams(),
                model_fingerprint="f",
            )
        )

    def run(self) -> None:
        """Accepted by the tokenizer, dispatched, accepted by the worker."""
        self.report(TOKENIZER, 1, is_receipt=True)
        self.dispatch()
        self.report(WORKER, 1, is_receipt=True)

    def receive(self, num_tokens: int) -> None:
        """Tokens of the first choice arrive now."""
        choice = self.generation.choices[0]
        choice.token_ids.extend(range(num_tokens))
        choice.last_token_at = self.generation.last_token_at = self.clock.now
        self.in_flight.move(self.generation, Standing.RUNNING)

    def retry(self, key: int, **fields: Any) -> None:
        """The next attempt is sent and runs."""
        self.in_flight.end_attempt(self.generation)
        fields = {"heard_at": self.clock.now, "worker_id": WORKER.instance_id} | fields
        attempt_of(self.in_flight, self.generation, key, **fields)

    @property
    def cause(self) -> Cause | None:
        """Why the attempt was given up, if it was."""
        return self.counted.repairs[-1] if self.counted.repairs else None


def fail(rig: Rig, code: ErrorCode, key: int = 0) -> None:
    """The worker could not do it; the current attempt, unless a key says which."""
    current = rig.generation.attempt.key if rig.generation.attempt else 0
    rig.recovery.failed(Failed(key=key or current, sender=WORKER, code=code, message="x", is_retryable=True))
