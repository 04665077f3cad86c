"""Who is there: the member table under an injected clock, and two instances over a real broker."""

import asyncio
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from tests.unit.wire.broker import Broker
from tests.unit.wire.samples import SAMPLES
from wire import subjects
from wire.background import BackgroundTaskError, BackgroundTasks
from wire.bus import Bus, Delivery
from wire.login import BusOptions
from wire.messages import Heartbeat, InstanceState, Message, Peer, Stage
from wire.metrics import BusMetrics
from wire.presence import Member, MemberTable, Presence, choose


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Observed:
    """A member table with what it told its listeners."""

    def __init__(self, timeout_s: float = 2.0) -> None:
        self.clock = Clock()
        self.table = MemberTable(timeout_s, self.clock)
        self.joined: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self.table.on_joined.append(lambda member: self.joined.append(member.instance_id))
        self.table.on_lost.append(lambda member, cause: self.lost.append((member.instance_id, cause)))

    def pass_time(self, seconds: float) -> None:
        """Ticks every 0.1 s, as the presence does."""
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            self.table.tick()


def heartbeat(instance_id: str = "worker-1", epoch: int = 1, **changes: object) -> Heartbeat:
    beat = Heartbeat(
        stage=Stage.WORKER,
        peer=Peer(instance_id, epoch),
        state=InstanceState.READY,
        served_model_name="demo",
        wire_level=1,
    )
    return msgspec.structs.replace(beat, **changes)


def test_an_instance_is_a_member_from_its_first_heartbeat_on() -> None:
    observed = Observed()
    observed.table.hear(heartbeat())
    assert observed.joined == ["worker-1"]
    assert observed.table.is_current(Peer("worker-1", 1))
    member = observed.table.get("worker-1")
    assert member is not None
    assert member.heartbeat == heartbeat()


def test_an_instance_that_is_silent_for_the_timeout_is_lost() -> None:
    observed = Observed(timeout_s=2.0)
    observed.table.hear(heartbeat())
    observed.pass_time(1.9)
    assert observed.lost == []
    observed.pass_time(0.3)
    assert observed.lost == [("worker-1", "no heartbeat for 2 s")]
    assert observed.table.get("worker-1") is None


def test_an_instance_that_is_heard_stays() -> None:
    observed = Observed(timeout_s=2.0)
    for _ in range(10):
        observed.table.hear(heartbeat())
        observed.pass_time(1.5)
    assert observed.lost == []
    assert observed.joined == ["worker-1"]


def test_after_a_late_tick_every_deadline_starts_anew() -> None:
    observed = Observed(timeout_s=2.0)
    observed.table.hear(heartbeat())
    observed.clock.now += 30.0
    observed.table.tick()
    assert observed.lost == []
    observed.pass_time(1.9)
    assert observed.lost == []
    observed.pass_time(0.3)
    assert [instance_id for instance_id, _ in observed.lost] == ["worker-1"]


def test_a_leaving_instance_is_lost_at_once() -> None:
    observed = Observed()
    observed.table.hear(heartbeat())
    observed.table.hear(heartbeat(state=InstanceState.LEAVING))
    assert observed.lost == [("worker-1", "left")]


def test_an_instance_that_was_never_known_may_leave() -> None:
    observed = Observed()
    observed.table.hear(heartbeat(state=InstanceState.LEAVING))
    assert observed.lost == []
    assert observed.joined == []


def test_a_new_epoch_is_a_loss_and_a_new_member() -> None:
    observed = Observed()
    observed.table.hear(heartbeat(epoch=1))
    observed.table.hear(heartbeat(epoch=2))
    assert observed.lost == [("worker-1", "new epoch")]
    assert observed.joined == ["worker-1", "worker-1"]
    assert observed.table.is_current(Peer("worker-1", 2))
    assert not observed.table.is_current(Peer("worker-1", 1))


def test_who_becomes_ready_is_announced_again() -> None:
    observed = Observed()
    observed.table.hear(heartbeat(state=InstanceState.STARTING))
    assert observed.table.ready(Stage.WORKER) == []
    observed.table.hear(heartbeat(state=InstanceState.READY))
    observed.table.hear(heartbeat(state=InstanceState.READY))
    assert observed.joined == ["worker-1", "worker-1"]
    assert [member.instance_id for member in observed.table.ready(Stage.WORKER)] == ["worker-1"]


def test_a_draining_instance_is_known_but_takes_no_work() -> None:
    observed = Observed()
    observed.table.hear(heartbeat(state=InstanceState.DRAINING))
    assert len(observed.table.of_stage(Stage.WORKER)) == 1
    assert observed.table.ready(Stage.WORKER) == []


def test_members_are_told_apart_by_stage_and_served_model() -> None:
    observed = Observed()
    observed.table.hear(heartbeat("worker-2"))
    observed.table.hear(heartbeat("worker-1"))
    observed.table.hear(heartbeat("worker-3", served_model_name="other"))
    observed.table.hear(heartbeat("tokenizer-1", stage=Stage.TOKENIZER))
    assert [member.instance_id for member in observed.table.ready(Stage.WORKER, "demo")] == ["worker-1", "worker-2"]
    assert len(observed.table.ready(Stage.WORKER)) == 3


def test_load_counts_own_sends_until_a_heartbeat_reflects_them() -> None:
    observed = Observed()
    observed.table.hear(heartbeat(num_running=2, num_waiting=1))
    member = observed.table.ready(Stage.WORKER)[0]
    assert choose([member]) is member
    assert member.load == 4
    observed.table.hear(heartbeat(num_running=3, num_waiting=1))
    assert member.load == 4


def test_nobody_is_chosen_from_nobody() -> None:
    assert choose([]) is None


def members(*loads: int) -> list[Member]:
    return [Member(heartbeat(f"worker-{number}", num_running=load), 0.0) for number, load in enumerate(loads)]


def test_the_less_loaded_of_two_is_chosen() -> None:
    for _ in range(50):
        chosen = choose(members(3, 9))
        assert chosen is not None
        assert chosen.instance_id == "worker-0"


def test_work_spreads_evenly_between_heartbeats() -> None:
    pool = members(0, 0, 0, 0)
    chosen = Counter(member.instance_id for _ in range(400) if (member := choose(pool)) is not None)
    assert len(chosen) == 4
    assert max(chosen.values()) - min(chosen.values()) <= 20


async def joined(table: MemberTable, instance_id: str) -> Heartbeat:
    """Waits until the table knows the instance."""
    arrived: asyncio.Queue[Member] = asyncio.Queue()
    table.on_joined.append(arrived.put_nowait)
    async with asyncio.timeout(10):
        while (member := table.get(instance_id)) is None:
            await arrived.get()
    return member.heartbeat


async def test_a_new_instance_knows_those_who_were_there_before_their_next_heartbeat(
    bus: Bus, other_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wire.presence.HEARTBEAT_INTERVAL_S", 3600.0)
    old = Presence(bus, MemberTable(3600.0), lambda: heartbeat("old", num_running=1), BackgroundTasks())
    new = Presence(other_bus, MemberTable(3600.0), lambda: heartbeat("new", num_running=2), BackgroundTasks())
    await old.start()
    await new.start()
    assert await joined(new.table, "old") == heartbeat("old", num_running=1)
    assert await joined(old.table, "new") == heartbeat("new", num_running=2)
    await old.stop()
    await new.stop()


async def test_heartbeats_carry_what_is_true_at_the_moment(bus: Bus, other_bus: Bus) -> None:
    load = iter(range(1000))
    beats: asyncio.Queue[Message] = asyncio.Queue()

    async def note(message: Message, _: Delivery) -> None:
        beats.put_nowait(message)

    await other_bus.subscribe(subjects.presence(Stage.WORKER, "beating"), note)
    await other_bus.flush()
    beating = Presence(bus, MemberTable(2.0), lambda: heartbeat("beating", num_running=next(load)), BackgroundTasks())
    await beating.start()
    async with asyncio.timeout(20):
        first, second = await beats.get(), await beats.get()
    assert isinstance(first, Heartbeat)
    assert isinstance(second, Heartbeat)
    assert first.num_running < second.num_running
    await beating.stop()


async def next_loss(presence: Presence) -> str:
    """Who is lost next, and why."""
    lost: asyncio.Queue[str] = asyncio.Queue()
    presence.table.on_lost.append(lambda member, cause: lost.put_nowait(f"{member.instance_id} {cause}"))
    async with asyncio.timeout(20):
        return await lost.get()


async def test_who_has_died_is_missed_as_soon_as_a_heartbeat_is_late(nats_url: str, other_bus: Bus) -> None:
    dying = await Bus.connect(BusOptions(url=nats_url), "dying", BusMetrics(CollectorRegistry()))
    beating = Presence(dying, MemberTable(3600.0), lambda: heartbeat("dying"), BackgroundTasks())
    table = MemberTable(3600.0)
    listening = Presence(other_bus, table, lambda: heartbeat("listening"), BackgroundTasks(), settle_s=0.0)
    await listening.start()
    await beating.start()
    await joined(table, "dying")
    await beating.stop()
    await dying.close()
    assert await next_loss(listening) == "dying nobody listens there any more"
    await listening.stop()


async def test_who_hangs_is_missed_after_the_timeout(bus: Bus, other_bus: Bus) -> None:
    async def deaf(_: Message, __: Delivery) -> None:
        """Has the probe, and does not answer."""

    listening = Presence(other_bus, MemberTable(2.0), lambda: heartbeat("listening"), BackgroundTasks(), settle_s=0.0)
    await listening.start()
    await bus.subscribe(subjects.probe("hanging"), deaf)
    await bus.publish(subjects.presence(Stage.WORKER, "hanging"), heartbeat("hanging"))
    await joined(listening.table, "hanging")
    assert await next_loss(listening) == "hanging no heartbeat for 2 s"
    await listening.stop()


async def test_who_is_only_late_answers_and_stays(bus: Bus, other_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    num_described = 0
    has_answered_often = asyncio.Event()

    def describe() -> Heartbeat:
        nonlocal num_described
        num_described += 1
        if num_described > 6:
            has_answered_often.set()
        return heartbeat("late")

    monkeypatch.setattr("wire.presence.HEARTBEAT_INTERVAL_S", 3600.0)
    late = Presence(bus, MemberTable(3600.0), describe, BackgroundTasks())
    listening = Presence(other_bus, MemberTable(1.5), lambda: heartbeat("listening"), BackgroundTasks(), settle_s=0.0)
    await listening.start()
    await late.start()
    await joined(listening.table, "late")
    member = listening.table.get("late")
    async with asyncio.timeout(20):
        await has_answered_often.wait()
    assert listening.table.get("late") is member
    await late.stop()
    await listening.stop()


async def test_an_answer_that_its_senders_leaving_overtakes_brings_nobody_back(bus: Bus, other_bus: Bus) -> None:
    table = MemberTable(3600.0)
    listening = Presence(other_bus, table, lambda: heartbeat("listening"), BackgroundTasks(), settle_s=0.0)
    has_left, has_answered = asyncio.Event(), asyncio.Event()

    async def answer_late(_: Message, delivery: Delivery) -> None:
        """What it was is on its way when it has gone already."""
        await bus.publish(subjects.presence(Stage.WORKER, "leaving"), heartbeat("leaving", state=InstanceState.LEAVING))
        await has_left.wait()
        await bus.publish(delivery.reply_to, heartbeat("leaving"))
        await bus.publish(subjects.presence(Stage.WORKER, "other"), heartbeat("other"))
        has_answered.set()

    table.on_lost.append(lambda *_: has_left.set())
    await listening.start()
    await bus.subscribe(subjects.probe("leaving"), answer_late)
    await bus.publish(subjects.presence(Stage.WORKER, "leaving"), heartbeat("leaving"))
    await joined(table, "leaving")
    async with asyncio.timeout(20):
        await has_answered.wait()
    await joined(table, "other")
    for _ in range(10):
        await asyncio.sleep(0)
    assert table.get("leaving") is None
    await listening.stop()


async def test_a_heartbeat_that_cannot_be_made_ends_the_process(bus: Bus) -> None:
    beats = iter([heartbeat("failing")] * 4)
    background = BackgroundTasks()
    presence = Presence(bus, MemberTable(2.0), lambda: next(beats), background)

    async def live() -> None:
        await presence.start()
        await asyncio.Event().wait()

    with pytest.raises(BackgroundTaskError, match="_beat"):
        await asyncio.wait_for(background.guard(live()), 20)
    await presence.stop()


async def test_an_id_that_no_instance_can_have_is_counted_and_dropped(
    bus: Bus, other_bus: Bus, registry: CollectorRegistry
) -> None:
    listening = Presence(bus, MemberTable(3600.0), lambda: heartbeat("listening"), BackgroundTasks())
    await listening.start()
    for instance_id in ("a.b", "good"):
        await other_bus.publish(subjects.presence(Stage.WORKER, "liar"), heartbeat(instance_id))
    assert await joined(listening.table, "good") == heartbeat("good")
    assert listening.table.get("a.b") is None
    assert registry.get_sample_value("millrace_bus_undecodable_messages_total") == 1
    await listening.stop()


def test_the_sample_heartbeat_is_of_a_ready_worker() -> None:
    beat = next(sample for sample in SAMPLES if isinstance(sample, Heartbeat))
    assert Member(beat, 0.0).is_ready
    assert Member(beat, 0.0).load == 7


async def test_who_does_not_even_hear_itself_judges_nobody(tmp_path: Path) -> None:
    """A broker that hangs is noticed by its pings, later than a silence of the timeout would be."""
    broker = Broker(tmp_path)
    broker.start()
    try:
        await _assert_nobody_is_lost_while_it_hangs(broker)
    finally:
        broker.stop()


async def _assert_nobody_is_lost_while_it_hangs(broker: Broker) -> None:
    bus, other_bus = [await Bus.connect(BusOptions(url=broker.url), n, BusMetrics(CollectorRegistry())) for n in "ab"]
    one = Presence(bus, MemberTable(2.0), lambda: heartbeat("one"), BackgroundTasks())
    other = Presence(other_bus, MemberTable(2.0), lambda: heartbeat("other"), BackgroundTasks())
    await one.start()
    await other.start()
    await joined(one.table, "other")
    lost: list[str] = []
    one.table.on_lost.append(lambda member, cause: lost.append(f"{member.instance_id} {cause}"))
    has_noticed, is_back = asyncio.Event(), asyncio.Event()
    bus.on_connection_change(lambda is_connected: (is_back if is_connected else has_noticed).set())
    broker.pause()
    async with asyncio.timeout(20):
        await has_noticed.wait()
        broker.resume()
        await is_back.wait()
    assert lost == []
    for presence, connection in ((one, bus), (other, other_bus)):
        await presence.stop()
        await connection.close()
