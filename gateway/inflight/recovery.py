"""Notices that an attempt is lost, and decides what follows. Sends nothing: it fills an outbox and sets due times.

Who judges must not be blind: `forgive` starts every deadline anew after an own disconnection or a late tick.
"""

import math
import random
import time
from collections.abc import Callable

from gateway.errors import RequestError, from_code
from gateway.inflight import crashes, verdicts
from gateway.inflight.counters import RecoveryCounters
from gateway.inflight.endings import crashed, gave_up, no_instance, not_recovered
from gateway.inflight.generation import Attempt, Cause, Clock, Generation
from gateway.inflight.in_flight import InFlight
from gateway.inflight.notices import Notices
from gateway.inflight.outbox import Outbox
from gateway.inflight.reattaching import held_at
from gateway.inflight.receipts import Receipts
from gateway.inflight.reports import Reports
from gateway.inflight.strangers import Strangers
from wire.columns import unpack_u64
from wire.messages import ErrorCode, Failed, Released, Stage
from wire.presence import Member, MemberTable

TICK_S = 0.1
_LATE_TICK_S = 0.5
_MAX_REPAIRS = 16
_PROOF_S = (0.3, 0.5)


class Recovery:
    """Every rule by which an attempt ends before its generation does."""

    def __init__(
        self,
        in_flight: InFlight,
        members: MemberTable,
        counters: RecoveryCounters,
        resume_timeout_s: float,
        on_failed: Callable[[Generation, RequestError], None],
        on_attempt_ended: Callable[[Generation, Attempt, Cause], None],
        clock: Clock = time.monotonic,
        *,
        is_enabled: bool = True,
    ) -> None:
        self.is_enabled = is_enabled
        self.outbox = Outbox()
        self._receipts = Receipts(members.timeout_s)
        self._strangers = Strangers()
        self._notices = Notices(members)
        self._in_flight = in_flight
        self._members = members
        self._counters = counters
        self._resume_timeout_s = resume_timeout_s if is_enabled else 0.0
        self._fail = on_failed
        self._on_attempt_ended = on_attempt_ended
        self._clock = clock
        self._last_tick = clock()
        self.reports = Reports(in_flight, self.outbox, self._receipts, self._strangers, counters, self.repair, clock)

    def acceptance_deadline(self) -> float:
        """Until when a holder that was given a request now must say that it has it."""
        return self._receipts.deadline(self._clock())

    def failed(self, message: Failed) -> None:
        """A stage could not do it: another attempt, or the client's error."""
        generation = self._in_flight.by_key.get(message.key)
        if generation is None:
            return
        if not message.is_retryable and not verdicts.may_fit_elsewhere(generation, message, self._members):
            self._fail(generation, from_code(message.code, message.message))
        elif generation.attempt and message.sender.instance_id == generation.attempt.detokenizer_id:
            self.repair(generation, Cause.GAP)
        elif message.code is ErrorCode.INTERNAL:
            self.repair(generation, Cause.FAILED, suspect_id=message.sender.instance_id)
        elif message.code is ErrorCode.UNAVAILABLE:
            if self._give_up(generation, Cause.UNAVAILABLE):
                generation.suspects.clear()  # without them there is nobody
                self.park(generation, Stage.WORKER)
        elif message.code is ErrorCode.INVALID_REQUEST:
            self.repair(generation, Cause.REFUSED, suspect_id=message.sender.instance_id)
        else:
            self.repair(generation, Cause.RELEASED)

    def released(self, message: Released) -> None:
        """A draining instance gives requests back; that is no crash."""
        for key in unpack_u64(message.keys):
            generation = self._in_flight.by_key.get(key)
            if generation is None or generation.attempt is None:
                continue
            if message.sender.instance_id == generation.attempt.detokenizer_id:
                self.repair(generation, Cause.DETOKENIZER_LEFT, suspect_id=generation.attempt.detokenizer_id)
            else:
                self.repair(generation, Cause.NOT_HELD if generation.attempt.is_asking else Cause.RELEASED)

    def unreachable(self, key: int) -> None:
        """Nobody listens where the job was sent."""
        generation = self._in_flight.by_key.get(key)
        if generation is not None and (attempt := generation.attempt) is not None:
            self.repair(generation, Cause.UNREACHABLE, suspect_id=attempt.tokenizer_id)

    def lost(self, member: Member) -> int:
        """An instance is gone: whatever it was needed for is tried again. Returns how many requests that are."""
        stage = member.heartbeat.stage
        if stage is Stage.GATEWAY:
            return 0
        self._receipts.forget(member.instance_id)
        if stage is Stage.DETOKENIZER:
            self.outbox.forget(member.instance_id)
        cause = verdicts.cause_of_loss(member)
        if cause in verdicts.LOSSES.values():
            self._counters.observe_detection(stage, self._clock() - member.heard_at)
        num_repaired = 0
        for generation in self._in_flight:
            attempt = generation.attempt
            if attempt is not None and verdicts.needed(attempt, stage) == member.instance_id:
                self.repair(generation, cause, suspect_id=member.instance_id)
                num_repaired += 1
        return num_repaired

    def joined(self, member: Member) -> None:
        """Somebody new: whoever is parked for want of an instance tries at once."""
        if member.is_ready:
            for generation in self._in_flight:
                if generation.resume_at < math.inf:
                    generation.resume_at = min(generation.resume_at, self._clock() + random.uniform(0, 0.05))

    def gap(self, generation: Generation) -> None:
        """Something in between never arrived."""
        self.repair(generation, Cause.GAP)

    def forgive(self) -> None:
        """Starts every deadline anew: this process was blind, the others may be innocent."""
        now = self._clock()
        for generation in self._in_flight:
            if attempt := generation.attempt:
                attempt.heard_at, attempt.owed_since, attempt.num_missing = now, now, 0
                attempt.accept_by = attempt.accept_by and self.acceptance_deadline()
                attempt.prove_by = attempt.prove_by and now + _PROOF_S[1]

    def was_away(self) -> None:
        """Like `forgive`, but others may have given this process up meanwhile, and what they sent it is lost.

        An attempt of which nothing is heard that proves the contrary is repaired within half a second.
        """
        self.forgive()
        now = self._clock()
        for generation in self._in_flight:
            if attempt := generation.attempt:
                attempt.doubted_at, attempt.prove_by = now, now + random.uniform(*_PROOF_S)  # not all at once
                attempt.accept_by = attempt.accept_by and attempt.prove_by

    def tick(self) -> None:
        """Looks at every deadline; to be called every `TICK_S`."""
        now = self._clock()
        late_s, self._last_tick = now - self._last_tick - TICK_S, now
        if late_s > self._members.timeout_s:
            self.was_away()
        elif late_s > _LATE_TICK_S:
            self.forgive()
        self._notices.review()
        for generation in self._in_flight:
            if generation.attempt is not None:
                if cause := verdicts.overdue(generation, generation.attempt, self._receipts, self._members, now):
                    suspect_id = verdicts.suspect(generation.attempt, cause)
                    self._notices.tell(suspect_id, cause)
                    self.repair(generation, cause, suspect_id)
            elif now >= generation.resume_at:
                self._resume(generation)

    def repair(self, generation: Generation, cause: Cause, suspect_id: str = "") -> None:
        """Gives the attempt up and plans the next one, unless the request has failed too often."""
        if (attempt := generation.attempt) is None:
            return
        has_crashed = crashes.is_crash(generation, attempt, cause, self._members)
        crashes.note(generation, attempt, has_crashed=has_crashed)
        self._give_up(generation, cause)
        generation.num_repairs += cause is not Cause.NOT_HELD  # which is the answer to a repair
        now = self._clock()
        generation.suspects.update({suspect_id} - {""})
        generation.disturbed_since = generation.disturbed_since or now
        if not self.is_enabled:
            self._fail(generation, not_recovered(cause))
            return
        if generation.num_crashes >= crashes.MAX_CRASHES:
            self._fail(generation, crashed(generation, cause, crashes.MIN_PROGRESS))
            return
        if generation.num_repairs > _MAX_REPAIRS:
            self._fail(generation, gave_up(generation, cause))
            return
        generation.resume_at = now + verdicts.backoff(generation.num_repairs)
        if generation.resume_at <= now:
            self._resume(generation)

    def _give_up(self, generation: Generation, cause: Cause) -> bool:
        """Ends the attempt; false if there is none. What its worker holds is kept if the next attempt can have it."""
        if (attempt := generation.attempt) is None:
            return False
        self._counters.count_repair(cause, verdicts.blamed(attempt, cause))
        self._on_attempt_ended(generation, attempt, cause)
        held = held_at(generation, attempt, cause, self._members)
        if held is None:
            self.abandon(generation)
        else:
            generation.held = held
            self._strangers.expect(attempt.key, self._clock())  # by which the worker may know it already
            if self._members.get(attempt.detokenizer_id) is not None:
                self.outbox.aborts.append((attempt.detokenizer_id, attempt.key))
        self._in_flight.end_attempt(generation)
        if verdicts.has_progressed(generation, attempt):
            generation.num_repairs = 0
            generation.suspects.clear()
        generation.next_cause = cause
        return True

    def abandon(self, generation: Generation) -> None:
        """Tells whoever works on the request to stop; everybody, while its worker is not known."""
        attempt, held, generation.held = generation.attempt, generation.held, None
        if attempt is not None:
            holders = [attempt.worker_id, attempt.detokenizer_id] if attempt.worker_id else [""]
            self.outbox.aborts.extend((holder_id, attempt.key) for holder_id in holders)
        if held is not None:
            self.outbox.aborts.append(held)

    def park(self, generation: Generation, missing: Stage) -> None:
        """There is nobody to send to: waits, up to the resume timeout. That is no failure of the request's."""
        now = self._clock()
        generation.disturbed_since = generation.disturbed_since or now
        waited_s = now - generation.disturbed_since
        if waited_s >= self._resume_timeout_s:
            self._fail(generation, no_instance(missing, self._resume_timeout_s))
        else:
            generation.resume_at = now + min(verdicts.patience(waited_s, TICK_S), self._resume_timeout_s - waited_s)

    def _resume(self, generation: Generation) -> None:
        generation.resume_at = math.inf
        self.outbox.due.append(generation)
