"""The channels to the detokenizers, without an engine and without a bus."""

from gpu_worker.held_requests import HeldRequests
from gpu_worker.hop_spans import HopSpans
from gpu_worker.result_router import ResultRouter
from gpu_worker.token_rows import TokenRow
from tests.unit.gpu_worker.bus_peers import DETOKENIZER, job
from wire.messages import Heartbeat, InstanceState, Peer, SequenceStart, Stage
from wire.presence import MemberTable
from wire.telemetry import Tracing

WORKER = Peer("worker-1", 1)


def beat(state: InstanceState) -> Heartbeat:
    """A heartbeat of the detokenizer."""
    return Heartbeat(stage=Stage.DETOKENIZER, peer=DETOKENIZER, state=state, served_model_name="m", wire_level=1)


class Rig:
    """A router whose requests are held and whose rows the test adds itself."""

    def __init__(self) -> None:
        self.held = HeldRequests()
        self.router = ResultRouter(WORKER, self.held)

    def hold(self, key: int, num_choices: int = 1) -> list[int]:
        """A request; the ids of its streams."""
        wanted = job(key, starts=tuple(map(SequenceStart, range(num_choices))))
        spans = HopSpans(Tracing("", 1.0, Stage.WORKER, WORKER.instance_id), wanted, 0, {})
        return list(self.held.hold(wanted, 0, spans).streams)

    def finished(self) -> list[int]:
        """The keys that are finished and not acknowledged."""
        return [finished.key for finished in self.router.finished()]


def test_when_the_detokenizer_stops_the_last_choice_the_others_may_be_on_their_way() -> None:
    rig = Rig()
    first, second = rig.hold(7, num_choices=2)
    channel = rig.router.channel(DETOKENIZER)
    channel.add(TokenRow(first, 0, [1]))
    channel.take_messages()
    rig.held.end(rig.held.streams[first], None)
    assert rig.router.stop(7, rig.held.streams[second].choice)
    assert rig.finished() == [7]
    channel.acknowledge(1)
    assert rig.finished() == []


def test_what_is_aborted_as_a_whole_is_not_reported() -> None:
    rig = Rig()
    (stream,) = rig.hold(7)
    rig.router.channel(DETOKENIZER).add(TokenRow(stream, 0, [1]))
    rig.router.channel(DETOKENIZER).take_messages()
    assert rig.router.drop(7)
    assert rig.finished() == []


def test_who_aborts_a_request_makes_no_channel() -> None:
    rig = Rig()
    rig.hold(7)
    assert rig.router.drop(7)
    assert rig.router.channels == {}


def test_a_channel_is_forgotten_when_its_detokenizer_is_lost_and_nobody_needs_it() -> None:
    rig = Rig()
    members = MemberTable(1e9)
    members.hear(beat(InstanceState.READY))
    (stream,) = rig.hold(7)
    channel = rig.router.channel(DETOKENIZER)
    channel.add(TokenRow(stream, 0, [1]))
    channel.take_messages()
    rig.router.prune(members)
    members.hear(beat(InstanceState.LEAVING))
    rig.router.prune(members)
    assert rig.router.channels, "a request needs it"
    rig.router.drop(7)
    rig.router.prune(members)
    assert rig.router.channels == {}


def test_a_detokenizer_that_nobody_has_heard_yet_keeps_its_channel_until_it_has_what_is_finished() -> None:
    rig = Rig()
    (stream,) = rig.hold(7)
    channel = rig.router.channel(DETOKENIZER)
    channel.add(TokenRow(stream, 0, [1]))
    request = rig.held.get(7)
    assert request is not None
    rig.held.end(rig.held.streams[stream], None)
    channel.finish(request)
    rig.router.prune(MemberTable(1e9))
    assert rig.router.channels
    channel.take_messages()
    channel.acknowledge(1)
    rig.router.prune(MemberTable(1e9))
    assert rig.router.channels == {}


def test_what_a_detokenizer_acknowledges_after_it_was_lost_is_none_of_its_next_channels() -> None:
    rig = Rig()
    first, second = rig.hold(7), rig.hold(8)
    lost = rig.router.channel(DETOKENIZER)
    for index in range(3):
        lost.add(TokenRow(first[0], index, [1]))
        lost.take_messages()
    rig.router.forget_channel(DETOKENIZER.instance_id)

    channel = rig.router.channel(DETOKENIZER)
    channel.add(TokenRow(second[0], 0, [1]))
    request = rig.held.get(8)
    assert request is not None
    rig.held.end(rig.held.streams[second[0]], None)
    channel.finish(request)
    channel.take_messages()
    channel.acknowledge(lost.last_seq)
    assert rig.finished() == [8], "its last row may still be on its way"
    assert not channel.is_settled
    channel.acknowledge(channel.last_seq)
    assert rig.finished() == []
    assert channel.is_settled


def test_a_member_keeps_its_channel() -> None:
    rig = Rig()
    members = MemberTable(1e9)
    members.hear(beat(InstanceState.READY))
    channel = rig.router.channel(DETOKENIZER)
    rig.router.prune(members)
    assert rig.router.channel(DETOKENIZER) is channel


def test_what_goes_on_elsewhere_before_it_was_sent_is_not_reported_for_ever() -> None:
    rig = Rig()
    (stream,) = rig.hold(7)
    channel = rig.router.channel(DETOKENIZER)
    channel.add(TokenRow(stream, 0, [1]))
    request = rig.held.get(7)
    assert request is not None
    rig.held.end(rig.held.streams[stream], None)
    channel.finish(request)
    assert rig.finished() == [7]
    rig.router.discard(request, request.ended)
    assert rig.finished() == []
    rig.router.prune(MemberTable(1e9))
    assert rig.router.channels == {}


def test_what_goes_on_elsewhere_takes_no_others_along() -> None:
    rig = Rig()
    channel = rig.router.channel(DETOKENIZER)
    for key in (7, 8):
        (stream,) = rig.hold(key)
        channel.add(TokenRow(stream, 0, [1]))
        request = rig.held.get(key)
        assert request is not None
        rig.held.end(rig.held.streams[stream], None)
        channel.finish(request)
    rig.router.discard(request, request.ended)
    assert rig.finished() == [7]
