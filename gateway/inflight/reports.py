"""What holders say of the requests that they have, and what it proves. Whatever they leave out twice is repaired."""

from collections.abc import Callable

from gateway.inflight import verdicts
from gateway.inflight.counters import RecoveryCounters
from gateway.inflight.generation import Attempt, Cause, Clock, Generation, Standing
from gateway.inflight.in_flight import InFlight
from gateway.inflight.outbox import Outbox
from gateway.inflight.receipts import Receipts
from gateway.inflight.strangers import Strangers
from wire.columns import unpack_u8, unpack_u32, unpack_u64
from wire.messages import Dispatched, Progress, RequestState


class Reports:
    """Takes `Dispatched` and `Progress` in."""

    def __init__(
        self,
        in_flight: InFlight,
        outbox: Outbox,
        receipts: Receipts,
        strangers: Strangers,
        counters: RecoveryCounters,
        repair: Callable[[Generation, Cause], None],
        clock: Clock,
    ) -> None:
        self._in_flight = in_flight
        self._outbox = outbox
        self._receipts = receipts
        self._strangers = strangers
        self._counters = counters
        self._repair = repair
        self._clock = clock

    def dispatched(self, message: Dispatched) -> None:
        """The tokenizer passed the request on: what a resume needs is known, and the worker must answer next."""
        generation = self._in_flight.by_key.get(message.key)
        if generation is None or (attempt := generation.attempt) is None:
            return
        if generation.dispatched is None:
            generation.dispatched = message  # frozen: every later attempt continues from these ids and this model
        attempt.worker_id = message.worker.instance_id
        attempt.heard_at, attempt.num_missing = self._clock(), 0
        is_accepted = attempt.worker_id in attempt.receipts
        attempt.accept_by = None if is_accepted else self._receipts.deadline(self._clock())
        if is_accepted and generation.standing is Standing.ON_THE_WAY:
            self._in_flight.move(generation, Standing.QUEUED)

    def progress(self, message: Progress) -> None:
        """A holder tells what it holds."""
        sender_id = message.sender.instance_id
        columns = unpack_u64(message.keys), unpack_u8(message.states), unpack_u32(message.num_output_tokens)
        if len({len(column) for column in columns}) != 1:
            self._counters.count_malformed()
            return
        named, strangers = set(columns[0]), []
        for key, state, num_output_tokens in zip(*columns, strict=True):
            generation = self._in_flight.by_key.get(key)
            if generation is not None and generation.attempt is not None:
                self._hear(generation, generation.attempt, sender_id, RequestState(state), num_output_tokens)
            elif state != RequestState.FINISHED:
                strangers.append(key)
        if strangers:
            self._abort_strangers(strangers)
        if message.is_receipt:
            self._receipts.note(sender_id, self._clock())
        else:
            self._count_missing(sender_id, named)

    def _abort_strangers(self, keys: list[int]) -> None:
        """Nobody waits for these; but by some a worker may go on with what the next attempt will ask it for."""
        held = {generation.held.key for generation in self._in_flight if generation.held is not None}
        for key in keys:
            if key in held:
                continue
            self._counters.count_unknown_keys(1)
            if self._strangers.is_due(key, self._clock()):
                self._outbox.aborts.append(("", key))  # to all: a detokenizer, which reports none, may hold it too

    def _hear(
        self, generation: Generation, attempt: Attempt, sender_id: str, state: RequestState, num_output_tokens: int
    ) -> None:
        attempt.receipts.add(sender_id)
        if sender_id != attempt.holder_id:
            return
        now = self._clock()
        if attempt.accept_by is not None:
            self._receipts.note_deadline(sender_id, attempt.accept_by)
        if num_output_tokens <= generation.num_from_worker and state is not RequestState.FINISHED:
            attempt.prove_by = None
        attempt.accept_by, attempt.heard_at, attempt.num_missing = None, now, 0
        if sender_id != attempt.worker_id:
            return
        generation.disturbed_since = None
        if generation.standing is not Standing.RUNNING:
            is_queued = state is RequestState.QUEUED
            self._in_flight.move(generation, Standing.QUEUED if is_queued else Standing.RUNNING)
        num_received = generation.num_from_worker
        if state is RequestState.FINISHED:  # the rest is on its way, until the worker says no more of it
            attempt.owed = 0
        elif num_received >= attempt.owed:
            attempt.owed, attempt.owed_since = (num_output_tokens, now) if num_output_tokens > num_received else (0, 0)

    def _count_missing(self, sender_id: str, named: set[int]) -> None:
        now = self._clock()
        for generation in self._in_flight:
            attempt = generation.attempt
            if attempt is None or attempt.holder_id != sender_id or attempt.accept_by or attempt.key in named:
                continue
            attempt.num_missing += 1
            if verdicts.is_missing(generation, attempt, now):
                self._repair(generation, Cause.MISSING)
