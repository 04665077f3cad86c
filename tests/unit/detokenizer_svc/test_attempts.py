"""Which streams are held, and that none is held for longer than it must."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from detokenizer_svc.attempts import Attempt, AttemptTable
from detokenizer_svc.byte_level import ByteLevelVocabulary
from detokenizer_svc.forgotten import FORGOTTEN_AFTER_S, ForgottenWatch
from detokenizer_svc.stream import Stream
from tests.unit.detokenizer_svc.batches import GATEWAY, WORKER, opened, settings
from wire.messages import Peer, StreamOpen

VOCABULARY = ByteLevelVocabulary([(0, "a")], [])


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Watcher:
    """Keeps what it is told."""

    opened: list[int] = field(default_factory=list)
    over: list[tuple[int, str]] = field(default_factory=list)

    def on_opened(self, attempt: Attempt, opened: StreamOpen, now_ns: int) -> None:
        assert opened.key == attempt.key
        assert now_ns == 1
        self.opened.append(attempt.key)

    def on_over(self, attempt: Attempt, cause: str) -> None:
        self.over.append((attempt.key, cause))


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.watcher = Watcher()
        self.table = AttemptTable(self.watcher, self.clock)

    def open(self, stream_open: StreamOpen, worker: Peer = WORKER) -> bool:
        stream = Stream(VOCABULARY, stream_open.settings)
        return self.table.open(worker, stream_open, stream, 1) is not None

    def end(self, stream_id: int, *, is_ended_by_worker: bool = True, worker: Peer = WORKER) -> None:
        self.table.end(self.table.worker(worker).open[stream_id], is_ended_by_worker=is_ended_by_worker)


def test_an_attempt_is_over_when_the_last_of_its_sequences_has_ended() -> None:
    rig = Rig()
    both = settings(num_sequences=2)
    rig.open(opened(1, 5, both, choice=0))
    rig.end(1)
    assert rig.watcher.over == []
    rig.open(opened(2, 5, both, choice=1))
    rig.end(2)
    assert rig.watcher.opened == [5]
    assert rig.watcher.over == [(5, "finished")]
    assert rig.table.is_empty.is_set()


def test_an_abort_drops_every_choice_of_a_key() -> None:
    rig = Rig()
    both = settings(num_sequences=2)
    rig.open(opened(1, 5, both, choice=0))
    rig.open(opened(2, 5, both, choice=1))
    rig.table.abort(5, None)
    assert rig.table.num_streams == len(rig.table) == 0
    assert set(rig.table.worker(WORKER).closed) == {1, 2}
    assert rig.watcher.over == [(5, "aborted")]


def test_an_abort_of_one_choice_leaves_the_others() -> None:
    rig = Rig()
    both = settings(num_sequences=2)
    rig.open(opened(1, 5, both, choice=0))
    rig.table.abort(5, 1)
    assert rig.table.num_streams == 1
    assert not rig.open(opened(2, 5, both, choice=1))
    rig.end(1)
    assert rig.watcher.over == [(5, "finished")]


def test_a_choice_that_was_aborted_before_its_attempt_came_is_not_waited_for() -> None:
    rig = Rig()
    both = settings(num_sequences=2)
    rig.table.abort(5, 1)
    rig.open(opened(1, 5, both, choice=0))
    rig.end(1)
    assert len(rig.table) == 0


def test_an_abort_that_overtakes_its_stream_holds_for_a_minute() -> None:
    rig = Rig()
    rig.table.abort(5, None)
    assert not rig.open(opened(1, 5))
    rig.clock.now = 59.9
    assert not rig.open(opened(2, 5))
    rig.clock.now = 60.0
    assert rig.open(opened(3, 5))


def test_a_stream_id_that_comes_again_leaves_nothing_of_the_first() -> None:
    rig = Rig()
    rig.open(opened(1, 5))
    rig.table.abort(6, None)
    assert not rig.open(opened(1, 6))
    assert rig.table.num_streams == len(rig.table) == 0
    assert rig.watcher.over == [(5, "replaced")]


def test_the_memory_of_closed_streams_is_bounded() -> None:
    rig = Rig()
    for stream_id in range(10_010):
        rig.open(opened(stream_id, 200_000 + stream_id))
        rig.end(stream_id, is_ended_by_worker=False)
    assert len(rig.table.worker(WORKER).closed) == 10_000


def test_a_lost_gateway_takes_its_attempts_along() -> None:
    rig = Rig()
    rig.open(opened(1, 5))
    rig.open(opened(2, 6, settings(gateway=Peer("gateway-2", 1))))
    rig.open(opened(3, 7, settings(gateway=Peer(GATEWAY.instance_id, 2))))
    rig.table.drop_gateway(GATEWAY)
    assert rig.watcher.over == [(5, "gateway lost")]
    assert rig.table.num_streams == 2


def test_a_lost_worker_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.open(opened(1, 5))
    rig.end(1, is_ended_by_worker=False)
    rig.open(opened(2, 6))
    rig.table.drop_worker(WORKER)
    assert rig.watcher.over[-1] == (6, "worker lost")
    assert rig.table.peers() == set()


def test_what_has_not_moved_for_long_since_an_absence_was_forgotten() -> None:
    rig = Rig()
    watch = ForgottenWatch(rig.clock)
    for stream_id, key in ((1, 5), (2, 6), (3, 7)):
        rig.open(opened(stream_id, key, settings(num_sequences=2)))
    watch.was_away(rig.table.attempts())
    rig.open(opened(4, 8))
    rig.table.worker(WORKER).open[2].stream.push([0])
    rig.open(opened(5, 7, settings(num_sequences=2), choice=1))
    assert watch.forgotten(rig.table.attempts()) == []
    rig.clock.now = FORGOTTEN_AFTER_S + 0.1
    assert watch.forgotten(rig.table.attempts()) == [5]
    assert watch.forgotten(rig.table.attempts()) == []


small = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("open"), small, small, small, small),
    st.tuples(st.just("end"), small, st.booleans(), small),
    st.tuples(st.just("abort"), small, st.none() | small),
    st.tuples(st.just("gateway"), small),
    st.tuples(st.just("worker"), small),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_every_attempt_that_was_opened_is_over_once(history: list[tuple[object, ...]]) -> None:
    rig = Rig()
    workers = [Peer(f"worker-{n % 2}", n // 2) for n in range(4)]
    for step in history:
        match step:
            case ("open", int(stream_id), int(key), int(choice), int(worker)):
                given_settings = settings(gateway=Peer("gateway", key % 2), num_sequences=2)
                rig.open(opened(stream_id, key, given_settings, choice=choice), workers[worker])
            case ("end", int(stream_id), bool(by_worker), int(worker)):
                if stream_id in rig.table.worker(workers[worker]).open:
                    rig.end(stream_id, is_ended_by_worker=by_worker, worker=workers[worker])
            case ("abort", int(key), choice):
                rig.table.abort(key, choice)  # type: ignore[arg-type]
            case ("gateway", int(epoch)):
                rig.table.drop_gateway(Peer("gateway", epoch))
            case ("worker", int(worker)):
                rig.table.drop_worker(workers[worker])
        held = [open_stream for attempt in rig.table.attempts() for open_stream in attempt.open.values()]
        assert rig.table.num_streams == len(held)
        assert rig.table.is_empty.is_set() == (len(rig.table) == 0)
    rig.table.drop_all("closed")
    assert rig.table.num_streams == len(rig.table) == 0
    assert len(rig.watcher.opened) == len(rig.watcher.over)
