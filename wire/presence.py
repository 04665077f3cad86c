"""Who is there and how busy: own heartbeats, and the table of everybody else's.

Who is late with a heartbeat is asked for one: the broker knows at once when a process has died. One that hangs does not
answer, and is given up after the timeout. Who judges must not be blind: after an own disconnection or a late clock
tick, and while not even the own heartbeats come back, every peer's deadline starts anew.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wire import subjects
from wire.background import BackgroundTasks
from wire.bus import Bus, Delivery, NoReplyError
from wire.codec import UndecodableMessageError
from wire.messages import Heartbeat, InstanceState, Message, Peer, PresenceProbe, Stage

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 0.5
_TICK_S = 0.1
_LATE_TICK_S = 0.5
_LATE_BEAT_S = 0.75
_ASK_AFTER_S = 0.6  # a question costs little, and most of the pause after a death is the wait for it
_ANSWER_S = 0.5
_ECHO_S = 1.25  # two of the own heartbeats, and some


@dataclass(slots=True, eq=False)
class Member:
    """Another instance, as last heard. `num_recent_sends` counts own sends that no heartbeat reflects yet."""

    heartbeat: Heartbeat
    heard_at: float
    num_recent_sends: int = 0

    @property
    def instance_id(self) -> str:
        """The instance's random id."""
        return self.heartbeat.peer.instance_id

    @property
    def load(self) -> float:
        """Requests that the instance holds or is about to receive from here."""
        return self.heartbeat.num_running + self.heartbeat.num_waiting + self.num_recent_sends

    @property
    def is_ready(self) -> bool:
        """Takes new work."""
        return self.heartbeat.state is InstanceState.READY

    @property
    def is_hung(self) -> bool:
        """Alive, but its engine has been in one step for longer than it says a step can take."""
        return self.heartbeat.step_age_s > self.heartbeat.step_timeout_s


class MemberTable:
    """The live instances of every stage. Knows no bus: it is fed heartbeats and the time.

    While `is_blind` this process hears nobody, not even itself, and can judge nobody.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._last_tick = clock()
        self.is_blind = False
        self.on_joined: list[Callable[[Member], None]] = []
        self.on_lost: list[Callable[[Member, str], None]] = []

    def hear(self, heartbeat: Heartbeat) -> None:
        """Takes one heartbeat in; a leaving instance is dropped at once."""
        instance_id = heartbeat.peer.instance_id
        member = self._members.get(instance_id)
        if heartbeat.state is InstanceState.LEAVING:
            self.drop(instance_id, "left")
        elif member is None:
            member = self._members[instance_id] = Member(heartbeat, self._clock())
            self._tell_joined(member)
        else:
            self._refresh(member, heartbeat)

    def _refresh(self, member: Member, heartbeat: Heartbeat) -> None:
        was_ready = member.is_ready
        has_new_epoch = heartbeat.peer.epoch != member.heartbeat.peer.epoch
        if has_new_epoch:
            for listener in self.on_lost:
                listener(member, "new epoch")
        member.heartbeat = heartbeat
        member.heard_at = self._clock()
        member.num_recent_sends = 0
        if member.is_ready and (has_new_epoch or not was_ready):
            self._tell_joined(member)

    def _tell_joined(self, member: Member) -> None:
        for listener in self.on_joined:
            listener(member)

    def drop(self, instance_id: str, cause: str) -> None:
        """Forgets an instance and tells the listeners; unknown ids are ignored."""
        member = self._members.pop(instance_id, None)
        if member is not None:
            for listener in self.on_lost:
                listener(member, cause)

    def forgive(self) -> None:
        """Starts every peer's deadline anew, because this process could not hear them."""
        now = self._clock()
        for member in self._members.values():
            member.heard_at = now

    def tick(self) -> None:
        """Drops whoever has not been heard for the timeout; to be called every 0.1 s."""
        now = self._clock()
        is_late = now - self._last_tick > _TICK_S + _LATE_TICK_S
        self._last_tick = now
        if is_late:
            self.forgive()
            return
        for instance_id in self.silent(self.timeout_s):
            self.drop(instance_id, f"no heartbeat for {self.timeout_s:g} s")

    def silent(self, since_s: float) -> list[str]:
        """Who has not been heard for so long."""
        now = self._clock()
        return [m.instance_id for m in self._members.values() if now - m.heard_at > since_s]

    def get(self, instance_id: str) -> Member | None:
        """The live member with this id."""
        return self._members.get(instance_id)

    def is_beating(self, member: Member) -> bool:
        """Whether its last heartbeat is not late: who is silent for longer may be gone."""
        return self._clock() - member.heard_at <= _LATE_BEAT_S

    def is_current(self, peer: Peer) -> bool:
        """Whether this very life of the instance is still there."""
        member = self._members.get(peer.instance_id)
        return member is not None and member.heartbeat.peer.epoch == peer.epoch

    def of_stage(self, stage: Stage, served_model_name: str | None = None) -> list[Member]:
        """Every live instance of a stage, ready or not, in order of id; of one served model, if given."""
        return sorted(
            (
                member
                for member in tuple(self._members.values())  # a metrics page asks from a thread of its own
                if member.heartbeat.stage is stage and served_model_name in (None, member.heartbeat.served_model_name)
            ),
            key=lambda member: member.instance_id,
        )

    def ready(self, stage: Stage, served_model_name: str | None = None) -> list[Member]:
        """The instances of a stage that take new work."""
        return [member for member in self.of_stage(stage, served_model_name) if member.is_ready]


def choose(candidates: Iterable[Member]) -> Member | None:
    """The less loaded of two random candidates ("power of two choices", Mitzenmacher 2001); None if there are none."""
    pool = list(candidates)
    if not pool:
        return None
    chosen = min(random.sample(pool, min(2, len(pool))), key=lambda member: member.load)
    chosen.num_recent_sends += 1
    return chosen


class Presence:
    """Tells the others of this instance, and listens to them."""

    def __init__(
        self,
        bus: Bus,
        table: MemberTable,
        describe: Callable[[], Heartbeat],
        background: BackgroundTasks,
        settle_s: float | None = None,
    ) -> None:
        """`describe` gives the heartbeat of this moment.

        After an outage everybody comes back at their own pace: for `settle_s` (the table's timeout, if None) nobody
        is given up only because nobody listens.
        """
        self._bus = bus
        self.table = table
        self._describe = describe
        self._instance_id = ""
        self._background = background
        self._tasks: list[asyncio.Task[None]] = []
        self._asked: set[str] = set()
        self._settle_s = table.timeout_s if settle_s is None else settle_s
        self._connected_at = self._echo_at = time.monotonic()
        bus.on_connection_change(self._on_connection_change)

    async def start(self) -> None:
        """Begins to beat and to listen; asks everybody for a heartbeat at once."""
        self._instance_id = self._describe().peer.instance_id
        self._echo_at = time.monotonic()
        await self._bus.subscribe(subjects.ALL_PRESENCE, self._on_heartbeat)
        await self._bus.subscribe(subjects.PROBE, self._on_probe)
        await self._bus.subscribe(subjects.probe(self._instance_id), self._on_probe)
        await self.announce()
        await self._bus.publish(subjects.PROBE, PresenceProbe(self._describe().peer))
        await self._bus.flush()
        self._tasks = [self._background.start(self._beat()), self._background.start(self._watch())]

    async def announce(self) -> None:
        """Publishes a heartbeat now, as on every change of state."""
        heartbeat = self._describe()
        subject = subjects.presence(heartbeat.stage, heartbeat.peer.instance_id)
        await self._bus.publish(subject, heartbeat)

    async def stop(self) -> None:
        """Ends the heartbeats."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_heartbeat(self, message: Message, _: Delivery) -> None:
        if isinstance(message, Heartbeat):
            self.table.hear(message)
            if message.peer.instance_id == self._instance_id:
                self._echo_at = time.monotonic()

    async def _on_probe(self, message: Message, delivery: Delivery) -> None:
        if isinstance(message, PresenceProbe):
            if delivery.reply_to:
                await self._bus.publish(delivery.reply_to, self._describe())
            else:
                await self.announce()

    def _on_connection_change(self, is_connected: bool) -> None:
        self._connected_at = self._echo_at = time.monotonic()
        if is_connected:
            self.table.forgive()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            await self.announce()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.table.is_blind = not self._bus.is_connected or time.monotonic() - self._echo_at > _ECHO_S
            if not self.table.is_blind:
                self.table.tick()
                for instance_id in self.table.silent(_ASK_AFTER_S):
                    if instance_id not in self._asked:
                        self._asked.add(instance_id)
                        self._background.start(self._ask(instance_id))
            else:
                self.table.forgive()

    async def _ask(self, instance_id: str) -> None:
        try:
            probe = PresenceProbe(self._describe().peer)
            answer = await self._bus.request(subjects.probe(instance_id), probe, timeout_s=_ANSWER_S)
        except NoReplyError as error:
            if error.is_unreachable and time.monotonic() - self._connected_at >= self._settle_s:
                self.table.drop(instance_id, "nobody listens there any more")
        except UndecodableMessageError as error:
            log.debug("%s answered a probe with something else: %s", instance_id, error)
        else:
            if self.table.get(instance_id) is not None:  # it has not left meanwhile, of which we hear another way
                await self._on_heartbeat(answer, Delivery())
        finally:
            self._asked.discard(instance_id)
