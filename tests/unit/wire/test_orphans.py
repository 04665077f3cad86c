"""What is held for a peer that nobody hears."""

from wire.messages import Heartbeat, InstanceState, Peer, Stage
from wire.orphans import ORPHAN_TIMEOUT_S, OrphanWatch
from wire.presence import MemberTable

HEARD, UNHEARD = Peer("gateway-1", 1), Peer("gateway-2", 1)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def heartbeat(peer: Peer) -> Heartbeat:
    return Heartbeat(stage=Stage.GATEWAY, peer=peer, state=InstanceState.READY, served_model_name="demo", wire_level=1)


def test_a_peer_that_nobody_hears_is_an_orphan_after_a_while() -> None:
    clock = Clock()
    members = MemberTable(2.0, clock)
    watch = OrphanWatch(members, clock)
    assert watch.orphaned([HEARD, UNHEARD]) == []
    members.hear(heartbeat(HEARD))
    clock.now += ORPHAN_TIMEOUT_S + 0.1
    assert watch.orphaned([HEARD, UNHEARD]) == [UNHEARD]
    assert watch.orphaned([]) == []


def test_who_comes_back_has_all_its_time_again() -> None:
    clock = Clock()
    members = MemberTable(2.0, clock)
    watch = OrphanWatch(members, clock)
    assert watch.orphaned([UNHEARD]) == []
    clock.now += ORPHAN_TIMEOUT_S / 2
    members.hear(heartbeat(UNHEARD))
    assert watch.orphaned([UNHEARD]) == []
    members.drop(UNHEARD.instance_id, "killed")
    clock.now += ORPHAN_TIMEOUT_S / 2 + 0.1
    assert watch.orphaned([UNHEARD]) == []
