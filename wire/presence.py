"""Who is there and how busy: own heartbeats, and the table of everybody else's.

Who judges must not be blind: after an own disconnection or a late clock tick, every peer's deadline starts anew.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wire import subjects
from wire.background import BackgroundTasks
from wire.bus import Bus, Delivery
from wire.messages import Heartbeat, InstanceState, Message, Peer, PresenceProbe, Stage

HEARTBEAT_INTERVAL_S = 0.5
_TICK_S = 0.1
_LATE_TICK_S = 0.5


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
    """The live instances of every stage. Knows no bus: it is fed heartbeats and the time."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._last_tick = clock()
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
                listener(member, "fenced itself")
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
        silent = [m.instance_id for m in self._members.values() if now - m.heard_at > self.timeout_s]
        for instance_id in silent:
            self.drop(instance_id, f"no heartbeat for {self.timeout_s:g} s")

    def get(self, instance_id: str) -> Member | None:
        """The live member with this id."""
        return self._members.get(instance_id)

    def is_current(self, peer: Peer) -> bool:
        """Whether this very life of the instance is still there."""
        member = self._members.get(peer.instance_id)
        return member is not None and member.heartbeat.peer.epoch == peer.epoch

    def of_stage(self, stage: Stage, served_model_name: str | None = None) -> list[Member]:
        """Every live instance of a stage, ready or not, in order of id; of one served model, if given."""
        return sorted(
            (
                member
                for member in self._members.values()
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
        self, bus: Bus, table: MemberTable, describe: Callable[[], Heartbeat], background: BackgroundTasks
    ) -> None:
        """`describe` gives the heartbeat of this moment."""
        self._bus = bus
        self.table = table
        self._describe = describe
        self._background = background
        self._tasks: list[asyncio.Task[None]] = []
        bus.on_connection_change(self._on_connection_change)

    async def start(self) -> None:
        """Begins to beat and to listen; asks everybody for a heartbeat at once."""
        await self._bus.subscribe(subjects.ALL_PRESENCE, self._on_heartbeat)
        await self._bus.subscribe(subjects.PROBE, self._on_probe)
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

    async def _on_probe(self, message: Message, _: Delivery) -> None:
        if isinstance(message, PresenceProbe):
            await self.announce()

    def _on_connection_change(self, is_connected: bool) -> None:
        if is_connected:
            self.table.forgive()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            await self.announce()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if self._bus.is_connected:
                self.table.tick()
            else:
                self.table.forgive()
