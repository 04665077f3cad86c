"""Every rule by which an attempt ends before its request, without a bus and in no time."""

from typing import Any

import pytest

from gateway.inflight.generation import Attempt, Cause, Generation, HeldAt, Standing
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
    FinishReason,
    Heartbeat,
    InstanceState,
    Peer,
    Progress,
    Released,
    RequestState,
    Stage,
    TextFinish,
)
from wire.presence import MemberTable
from wire.sampling import SamplingParams

PEERS = {Stage.TOKENIZER: TOKENIZER, Stage.WORKER: WORKER, Stage.DETOKENIZER: DETOKENIZER}


class Rig:
    """One generation in flight with key 1, all stages alive, and time at a standstill."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.in_flight = InFlight()
        self.counted = Counted()
        self.ended = Ended()
        self.members = MemberTable(1e9, self.clock)
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
        """Lets time pass, tick by tick."""
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
        self.recovery.progress(
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
        self.recovery.dispatched(
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
        """Tokens arrive now."""
        self.generation.choices[0].token_ids.extend(range(num_tokens))
        self.generation.last_token_at = self.clock.now

    def retry(self, key: int, **fields: Any) -> None:
        """The next attempt is sent and runs."""
        self.in_flight.end_attempt(self.generation)
        fields = {"heard_at": self.clock.now, "worker_id": WORKER.instance_id} | fields
        attempt_of(self.in_flight, self.generation, key, **fields)

    @property
    def cause(self) -> Cause | None:
        """Why the attempt was given up, if it was."""
        return self.counted.repairs[-1] if self.counted.repairs else None


@pytest.fixture
def rig() -> Rig:
    """A rig at its beginning: sent, not yet accepted."""
    return Rig()


def test_a_job_must_be_accepted_within_a_second(rig: Rig) -> None:
    rig.wait(0.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_a_holder_that_works_through_a_long_queue_is_slow_and_not_deaf(rig: Rig) -> None:
    for key in range(100, 130):
        rig.report(TOKENIZER, key, is_receipt=True)
        rig.wait(0.5)

    assert rig.cause is None


def test_a_job_that_is_skipped_is_lost_however_many_others_are_accepted(rig: Rig) -> None:
    rig.report(TOKENIZER, 99, is_receipt=True)
    rig.wait(0.8)
    later = generation_of(rig.in_flight)
    attempt_of(rig.in_flight, later, 2, accept_by=rig.recovery.acceptance_deadline(), heard_at=rig.clock.now)
    rig.report(TOKENIZER, 2, is_receipt=True)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_after_dispatch_the_worker_has_a_second_of_its_own(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.wait(1.5)
    rig.dispatch()
    rig.wait(0.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_a_workers_receipt_may_overtake_the_dispatch(rig: Rig) -> None:
    rig.report(WORKER, 1, is_receipt=True)
    rig.dispatch()
    rig.wait(1.5)

    assert rig.cause is None


def test_how_far_a_request_has_come_is_known_from_its_holders(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.ON_THE_WAY
    rig.dispatch()
    assert rig.generation.standing is Standing.ON_THE_WAY
    rig.report(WORKER, 1, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.QUEUED
    rig.report(WORKER, 1)
    assert rig.generation.standing is Standing.RUNNING
    rig.report(WORKER, 1, state=RequestState.QUEUED)  # preempted: it has been let in all the same
    assert rig.generation.standing is Standing.RUNNING


def test_a_receipt_that_overtakes_the_dispatch_counts_from_there(rig: Rig) -> None:
    rig.report(WORKER, 1, is_receipt=True, state=RequestState.QUEUED)
    assert rig.generation.standing is Standing.ON_THE_WAY
    rig.dispatch()
    assert rig.generation.standing is Standing.QUEUED


def test_waiting_has_no_deadline_while_the_holder_reports(rig: Rig) -> None:
    rig.run()
    for _ in range(1000):
        rig.wait(0.5)
        rig.report(WORKER, 1)

    assert rig.cause is None


def test_silence_of_two_seconds_is_a_loss(rig: Rig) -> None:
    rig.run()
    rig.wait(1.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.SILENT


def test_tokens_are_a_sign_of_life_too(rig: Rig) -> None:
    rig.run()
    for _ in range(5):
        rig.wait(1.5)
        rig.receive(1)

    assert rig.cause is None


def test_missing_once_is_an_accident_and_twice_in_a_row_a_loss(rig: Rig) -> None:
    rig.run()
    rig.report(WORKER)
    rig.report(WORKER, 1)
    rig.report(WORKER)
    assert rig.cause is None
    rig.report(WORKER)
    assert rig.cause is Cause.MISSING


def test_a_worker_that_is_done_may_forget_what_is_still_on_its_way(rig: Rig) -> None:
    rig.run()
    for _ in range(6):
        rig.receive(1)
        rig.wait(0.5)
        rig.report(WORKER)
    assert rig.cause is None
    rig.wait(0.6)
    rig.report(WORKER)
    assert rig.cause is Cause.MISSING


def test_what_is_finished_is_on_its_way_for_as_long_as_the_worker_says_so(rig: Rig) -> None:
    rig.run()
    rig.report(WORKER, 1, num_tokens=2)
    for _ in range(10):
        rig.wait(0.5)
        rig.report(WORKER, 1, num_tokens=3, state=RequestState.FINISHED)
    assert rig.cause is None
    rig.wait(0.5)
    rig.report(WORKER)
    rig.wait(0.5)
    assert rig.cause is None
    rig.report(WORKER)
    assert rig.cause is Cause.MISSING


def test_another_holders_report_says_nothing_about_it(rig: Rig) -> None:
    rig.run()
    for _ in range(3):
        rig.report(TOKENIZER)

    assert rig.cause is None


def test_staying_behind_for_a_second_is_a_loss(rig: Rig) -> None:
    rig.run()
    rig.receive(2)
    rig.report(WORKER, 1, num_tokens=3)
    rig.wait(0.9)
    rig.report(WORKER, 1, num_tokens=3)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.BEHIND
    assert rig.generation.suspects == {DETOKENIZER.instance_id}


def test_always_being_a_little_behind_is_normal(rig: Rig) -> None:
    rig.run()
    for received in range(1, 20):
        rig.report(WORKER, 1, num_tokens=received + 2)
        rig.wait(0.5)
        rig.receive(1)

    assert rig.cause is None


def test_a_stop_string_may_leave_the_worker_ahead(rig: Rig) -> None:
    rig.generation = generation_of(rig.in_flight, n=2)
    rig.attempt = attempt_of(rig.in_flight, rig.generation, 2, heard_at=rig.clock.now, worker_id=WORKER.instance_id)
    finish = TextFinish(0, FinishReason.STOP, "END", 1, 1, 0, 0, 0, 0, 0, 0)
    rig.generation.finish(rig.generation.choices[0], finish)
    rig.report(WORKER, 1, 2, num_tokens=9)
    rig.wait(1.5)

    assert rig.generation.attempt is rig.attempt


def test_what_the_other_choices_miss_at_their_ends_is_noticed_when_the_worker_tells_no_more(rig: Rig) -> None:
    rig.generation = generation_of(rig.in_flight, n=2)
    fields = {"heard_at": rig.clock.now, "worker_id": WORKER.instance_id, "receipts": {WORKER.instance_id}}
    rig.attempt = attempt_of(rig.in_flight, rig.generation, 2, **fields)
    finish = TextFinish(0, FinishReason.STOP, "END", 1, 1, 0, 0, 0, 0, 0, 0)
    rig.generation.finish(rig.generation.choices[0], finish)
    rig.dispatch()
    rig.report(WORKER, 1, 2, num_tokens=9)
    for _ in range(2):
        rig.wait(0.5)
        rig.report(WORKER, 1)

    assert rig.cause is Cause.MISSING
    assert rig.generation.held == HeldAt(WORKER.instance_id, 2)


@pytest.mark.parametrize(
    ("stage", "cause"),
    [(Stage.WORKER, Cause.WORKER_LOST), (Stage.DETOKENIZER, Cause.DETOKENIZER_LOST), (Stage.TOKENIZER, None)],
)
def test_a_dispatched_request_needs_its_worker_and_detokenizer_only(rig: Rig, stage: Stage, cause: Cause) -> None:
    rig.run()
    rig.members.drop(PEERS[stage].instance_id, "killed")

    assert rig.cause is cause


def test_before_dispatch_it_needs_its_tokenizer(rig: Rig) -> None:
    rig.members.drop(TOKENIZER.instance_id, "killed")

    assert rig.cause is Cause.TOKENIZER_LOST
    assert rig.recovery.outbox.take_aborts() == [("", 1)]


def test_a_worker_that_was_gone_before_the_dispatch_does_not_accept(rig: Rig) -> None:
    rig.members.drop(WORKER.instance_id, "killed")
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    assert rig.cause is None  # it may as well be so new that its first heartbeat is still on its way
    rig.wait(1.2)
    assert rig.cause is Cause.NOT_ACCEPTED


def test_a_worker_that_drains_and_leaves_has_not_crashed(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.WORKER, state=InstanceState.DRAINING)
    rig.members.drop(WORKER.instance_id, "left")

    assert rig.cause is Cause.RELEASED
    assert rig.generation.num_crashes == 0


def test_another_gateway_may_die(rig: Rig) -> None:
    beat = Heartbeat(
        stage=Stage.GATEWAY, peer=Peer("g", 1), state=InstanceState.READY, served_model_name="m", wire_level=1
    )
    rig.members.hear(beat)
    rig.members.drop("g", "killed")

    assert rig.cause is None


def test_a_hung_step_is_a_loss(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.WORKER, step_age_s=61.0)
    rig.wait(TICK_S)

    assert rig.cause is Cause.WORKER_HUNG
    assert WORKER.instance_id in rig.generation.suspects


def test_a_worker_says_itself_how_long_its_steps_may_take(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.WORKER, step_age_s=61.0, step_timeout_s=300.0)
    rig.wait(TICK_S)

    assert rig.cause is None


def test_nobody_listening_is_noticed_at_once(rig: Rig) -> None:
    rig.recovery.unreachable(1)

    assert rig.cause is Cause.UNREACHABLE
    assert rig.generation.suspects == {TOKENIZER.instance_id}


def test_tokens_that_a_detokenizer_misses_are_a_gap_and_no_crash(rig: Rig) -> None:
    rig.run()
    failed = Failed(key=1, sender=DETOKENIZER, code=ErrorCode.INTERNAL, message="lost", is_retryable=True, choice=0)
    rig.recovery.failed(failed)

    assert rig.cause is Cause.GAP
    assert rig.generation.num_crashes == 0


def test_the_old_attempt_is_aborted_where_it_may_still_run(rig: Rig) -> None:
    rig.run()
    rig.clock.now += 1.0  # without a heartbeat
    rig.recovery.repair(rig.generation, Cause.SILENT)

    assert rig.recovery.outbox.take_aborts() == [(WORKER.instance_id, 1), (DETOKENIZER.instance_id, 1)]
    assert rig.in_flight.by_key == {}
    assert rig.ended.attempts == [Cause.SILENT]
    assert rig.counted.stages == [Stage.WORKER]


@pytest.mark.parametrize("cause", [Cause.GAP, Cause.BEHIND, Cause.MISSING, Cause.OUTAGE, Cause.DETOKENIZER_LEFT])
def test_a_worker_that_may_have_it_still_is_asked_to_go_on(rig: Rig, cause: Cause) -> None:
    rig.run()
    rig.recovery.repair(rig.generation, cause)

    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.recovery.outbox.take_aborts() == [(DETOKENIZER.instance_id, 1)]
    assert rig.recovery.outbox.take_due() == [rig.generation]
    rig.report(WORKER, 1)
    assert rig.recovery.outbox.take_aborts() == [], "the worker knows it by the old key for a moment"


def test_a_lost_detokenizer_is_not_told(rig: Rig) -> None:
    rig.run()
    rig.beat(Stage.DETOKENIZER, state=InstanceState.LEAVING)

    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.recovery.outbox.take_aborts() == []


def test_a_worker_that_has_accepted_nothing_has_nothing(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    rig.recovery.gap(rig.generation)

    assert rig.generation.held is None


def test_a_worker_that_hands_a_request_back_is_not_asked_to_go_on(rig: Rig) -> None:
    rig.run()
    rig.recovery.released(Released(WORKER, pack_u64([1]), "draining"))

    assert rig.generation.held is None
    assert rig.cause is Cause.RELEASED


def test_a_detokenizer_that_hands_it_back_leaves_the_worker_alone(rig: Rig) -> None:
    rig.run()
    rig.recovery.released(Released(DETOKENIZER, pack_u64([1]), "draining"))

    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.cause is Cause.DETOKENIZER_LEFT


def test_a_refused_reattachment_is_a_resume_at_once(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_due()
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.recovery.released(Released(WORKER, pack_u64([2]), "not held"))

    assert rig.cause is Cause.NOT_HELD
    assert rig.generation.held is None
    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_a_reattachment_that_reaches_nobody_is_tried_again_while_the_worker_lives(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.recovery.unreachable(2)
    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)

    rig.retry(3, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.beat(Stage.WORKER, state=InstanceState.LEAVING)
    assert rig.generation.held is None


def test_a_reattachment_that_nobody_accepts_is_a_resume(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_aborts()
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=rig.recovery.acceptance_deadline())
    rig.wait(1.2)

    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.held is None
    assert (WORKER.instance_id, 1) in rig.recovery.outbox.take_aborts(), "what it goes on with is nobody's any more"


def test_after_an_outage_a_request_that_proves_nothing_is_repaired(rig: Rig) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.report(WORKER, 1, num_tokens=5)
    rig.wait(0.6)

    assert rig.cause is Cause.OUTAGE
    assert rig.generation.held == HeldAt(WORKER.instance_id, 1)
    assert rig.counted.stages == ["broker"]


@pytest.mark.parametrize("proof", ["report", "token"])
def test_after_an_outage_a_request_that_misses_nothing_is_left_alone(rig: Rig, proof: str) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.clock.now += 0.01
    if proof == "report":
        rig.report(WORKER, 1, num_tokens=3)
    else:
        rig.receive(1)
    rig.wait(0.6)

    assert rig.cause is None


def test_what_finished_during_an_outage_has_nothing_left_to_prove_it_with(rig: Rig) -> None:
    rig.run()
    rig.receive(3)
    rig.recovery.was_away()
    rig.report(WORKER, 1, num_tokens=3, state=RequestState.FINISHED)
    rig.wait(0.6)

    assert rig.cause is Cause.OUTAGE


def test_a_process_that_was_stopped_for_long_doubts_everything(rig: Rig) -> None:
    rig.members.timeout_s = 2.0
    rig.run()
    rig.clock.now += 5.0
    rig.recovery.tick()
    assert rig.cause is None
    rig.wait(0.6)

    assert rig.cause is Cause.OUTAGE


def test_a_loss_tells_how_long_it_took_to_notice(rig: Rig) -> None:
    rig.members.timeout_s = 2.0
    rig.clock.now += 2.5
    rig.members.drop(WORKER.instance_id, "no heartbeat")

    assert rig.counted.silences == [2.5]


def test_repeats_are_spaced_more_and_more(rig: Rig) -> None:
    delays = []
    for key in range(2, 8):
        rig.recovery.gap(rig.generation)
        started = rig.clock.now
        while not rig.recovery.outbox.take_due():
            rig.clock.now += 0.01
            rig.recovery.tick()
        delays.append(rig.clock.now - started)
        rig.retry(key)

    assert delays[0] == 0
    assert delays[-1] > 4 * delays[1]
    assert delays[-1] <= 2.1


def test_three_crashes_without_progress_are_the_end(rig: Rig) -> None:
    for key in (2, 3, 4):
        fail(rig, ErrorCode.INTERNAL)
        rig.retry(key)

    assert [error.status for error in rig.ended.failed] == [500]


def test_a_worker_that_falls_silent_with_a_job_counts_as_crashed(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    rig.wait(1.2)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.num_crashes == 1


def test_a_worker_that_beats_and_does_not_accept_has_not_crashed(rig: Rig) -> None:
    rig.report(TOKENIZER, 1, is_receipt=True)
    rig.dispatch()
    rig.wait(0.9)
    rig.beat(Stage.WORKER)
    rig.wait(0.3)
    assert rig.cause is Cause.NOT_ACCEPTED
    assert rig.generation.num_crashes == 0


def test_a_worker_dies_once_though_it_is_asked_for_what_it_had(rig: Rig) -> None:
    rig.run()
    accept_by = rig.recovery.acceptance_deadline()
    rig.retry(2, is_reattachment=True, tokenizer_id="", accept_by=accept_by)
    rig.members.drop(WORKER.instance_id, "killed")
    assert rig.cause is Cause.WORKER_LOST
    assert rig.generation.num_crashes == 0


def test_only_a_crash_without_a_token_makes_a_request_suspect(rig: Rig) -> None:
    rig.run()
    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert not rig.generation.is_suspect, "its prefill did no harm"

    rig.retry(2)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect

    rig.retry(3)
    rig.recovery.repair(rig.generation, Cause.WORKER_LOST)
    assert rig.generation.is_suspect

    rig.retry(4)
    rig.receive(1)
    rig.recovery.repair(rig.generation, Cause.GAP)
    assert not rig.generation.is_suspect


def test_progress_forgives_crashes(rig: Rig) -> None:
    for key in range(2, 12):
        rig.receive(1)
        fail(rig, ErrorCode.INTERNAL)
        rig.retry(key)

    assert rig.ended.failed == []
    assert rig.generation.num_crashes == 1


def test_draining_is_no_crash(rig: Rig) -> None:
    for key in range(2, 12):
        fail(rig, ErrorCode.DRAINING)
        rig.retry(key)

    assert rig.ended.failed == []


def test_a_parked_request_waits_for_the_resume_timeout_and_no_longer(rig: Rig) -> None:
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_due()
    for _ in range(1190):
        rig.recovery.park(rig.generation, Stage.WORKER)
        rig.wait(TICK_S)
        rig.recovery.outbox.take_due()
    assert rig.ended.failed == []
    rig.clock.now += 2
    rig.recovery.park(rig.generation, Stage.WORKER)

    assert [error.message for error in rig.ended.failed] == ["No worker came back within 120 s."]


def test_without_a_worker_a_request_is_parked_however_often_its_tokenizer_looks(rig: Rig) -> None:
    key = 1
    while not rig.ended.failed:
        rig.retry(key := key + 1)
        fail(rig, ErrorCode.UNAVAILABLE)
        started = rig.clock.now
        while not (rig.ended.failed or rig.recovery.outbox.take_due()):
            rig.wait(TICK_S)
        assert rig.clock.now - started < 2.2

    assert 40 < key < 300
    assert 220 <= rig.clock.now < 221
    assert [(error.status, error.message) for error in rig.ended.failed] == [(503, "No worker came back within 120 s.")]
    assert set(rig.counted.repairs) == {Cause.UNAVAILABLE}


def test_who_failed_a_request_is_asked_again_when_there_is_nobody_else(rig: Rig) -> None:
    fail(rig, ErrorCode.INTERNAL)
    assert rig.generation.suspects == {WORKER.instance_id}
    rig.retry(2)
    fail(rig, ErrorCode.UNAVAILABLE)
    assert rig.generation.suspects == set()
    assert rig.generation.num_crashes == 1


def test_a_newcomer_wakes_the_parked(rig: Rig) -> None:
    rig.recovery.gap(rig.generation)
    rig.recovery.outbox.take_due()
    rig.recovery.park(rig.generation, Stage.WORKER)
    rig.generation.resume_at = rig.clock.now + 60
    member = rig.members.get(WORKER.instance_id)
    assert member is not None
    rig.recovery.joined(member)
    rig.wait(2 * TICK_S)

    assert rig.recovery.outbox.take_due() == [rig.generation]


def test_a_blind_judge_starts_every_deadline_anew(rig: Rig) -> None:
    rig.run()
    rig.report(WORKER, 1, num_tokens=5)
    rig.clock.now += 30  # this process stood still: its own tick is late
    rig.recovery.tick()
    assert rig.cause is None
    rig.wait(0.9)
    assert rig.cause is None
    rig.wait(0.3)
    assert rig.cause is Cause.BEHIND


def test_a_report_whose_columns_do_not_fit_together_is_counted_and_says_nothing(rig: Rig) -> None:
    rig.run()
    broken = Progress(
        sender=WORKER, keys=b"", states=pack_u8([1]), queue_positions=b"", num_output_tokens=pack_u32([7])
    )
    for _ in range(9):
        rig.clock.now += 0.5
        rig.recovery.progress(broken)
        rig.report(WORKER, 1)

    assert rig.counted.malformed == 9
    assert rig.cause is None


def test_an_unknown_key_is_answered_by_an_abort_to_all(rig: Rig) -> None:
    rig.report(WORKER, 1, 77)

    assert rig.recovery.outbox.take_aborts() == [("", 77)]
    assert rig.counted.unknown == 1


def test_an_unknown_key_is_answered_once_in_three_seconds(rig: Rig) -> None:
    num_answers = 0
    for _ in range(20):
        rig.report(WORKER, 77)
        rig.report(TOKENIZER, 77)
        num_answers += len(rig.recovery.outbox.take_aborts())
        rig.wait(0.5)
    assert num_answers == 4
    rig.report(WORKER, 78)
    assert rig.recovery.outbox.take_aborts() == [("", 78)]


def _refuse(rig: Rig, sender: Peer = WORKER) -> None:
    """It can never serve it."""
    assert rig.generation.attempt is not None
    refusal = Failed(
        key=rig.generation.attempt.key, sender=sender, code=ErrorCode.INVALID_REQUEST, message="the cache is too small"
    )
    rig.recovery.failed(refusal)


def test_a_resume_that_one_worker_refuses_may_fit_another(rig: Rig) -> None:
    rig.run()
    rig.retry(2, is_resume=True)
    rig.beat(Stage.WORKER, peer=Peer("worker-2", 1), model_fingerprint="f")
    rig.beat(Stage.WORKER, peer=Peer("worker-3", 1), model_fingerprint="another")
    _refuse(rig)
    assert rig.cause is Cause.REFUSED
    assert rig.generation.suspects == {WORKER.instance_id}
    assert rig.generation.num_crashes == 0

    rig.retry(3, is_resume=True)
    _refuse(rig, Peer("worker-2", 1))
    assert [(error.status, error.message) for error in rig.ended.failed] == [(400, "the cache is too small")]


def test_what_the_first_worker_or_a_tokenizer_refuses_is_the_clients_error(rig: Rig) -> None:
    rig.beat(Stage.WORKER, peer=Peer("worker-2", 1), model_fingerprint="f")
    rig.run()
    _refuse(rig)
    assert [error.status for error in rig.ended.failed] == [400]

    rig.retry(2, is_resume=True)
    _refuse(rig, TOKENIZER)
    assert [error.status for error in rig.ended.failed] == [400, 400]


def test_messages_about_past_attempts_change_nothing(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.retry(2)
    rig.recovery.unreachable(1)
    fail(rig, ErrorCode.INTERNAL, key=1)

    assert rig.generation.attempt is not None
    assert rig.generation.attempt.key == 2


def fail(rig: Rig, code: ErrorCode, key: int = 0) -> None:
    current = rig.generation.attempt.key if rig.generation.attempt else 0
    rig.recovery.failed(Failed(key=key or current, sender=WORKER, code=code, message="x", is_retryable=True))
