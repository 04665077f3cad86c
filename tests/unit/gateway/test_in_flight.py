"""How many sequences wait, counted as they move and never by looking at each."""

from collections import Counter

from gateway.inflight.arrivals import Arrivals
from gateway.inflight.generation import Generation, Standing
from gateway.inflight.in_flight import InFlight
from tests.unit.gateway.streams import Counted, Row, attempt_of, batch_of, generation_of


def counted(in_flight: InFlight) -> dict[Standing, int]:
    """The counts, which must be those of the generations in flight."""
    seen = Counter(generation.standing for generation in in_flight for _ in generation.choices)
    assert in_flight.num_standing == dict.fromkeys(Standing, 0) | seen
    return {standing: number for standing, number in in_flight.num_standing.items() if number}


def ignore(_: Generation) -> None:
    """Nothing follows from a gap or an end here."""


def test_a_request_is_on_its_way_until_it_is_moved_and_again_when_its_attempt_ends() -> None:
    in_flight = InFlight()
    first, second = generation_of(in_flight, n=3), generation_of(in_flight)
    attempt_of(in_flight, first, 1)
    assert counted(in_flight) == {Standing.ON_THE_WAY: 4}
    in_flight.move(first, Standing.QUEUED)
    in_flight.move(second, Standing.RUNNING)
    assert counted(in_flight) == {Standing.QUEUED: 3, Standing.RUNNING: 1}
    in_flight.end_attempt(first)
    assert counted(in_flight) == {Standing.ON_THE_WAY: 3, Standing.RUNNING: 1}


def test_who_is_removed_counts_no_more_whatever_is_heard_of_it_later() -> None:
    in_flight = InFlight()
    generation = generation_of(in_flight)
    attempt_of(in_flight, generation, 1)
    in_flight.move(generation, Standing.RUNNING)
    assert in_flight.remove(generation)
    assert not in_flight.remove(generation)
    in_flight.move(generation, Standing.QUEUED)
    assert counted(in_flight) == {}


def test_a_token_tells_that_a_request_runs_in_every_attempt() -> None:
    in_flight = InFlight()
    generation = generation_of(in_flight)
    arrivals = Arrivals(in_flight, Counted(), ignore, ignore)
    for key in (1, 2):
        attempt_of(in_flight, generation, key)
        assert counted(in_flight) == {Standing.ON_THE_WAY: 1}
        arrivals.apply(batch_of(Row(key, 0, key - 1, [5], "a", key - 1)))
        assert counted(in_flight) == {Standing.RUNNING: 1}
        in_flight.end_attempt(generation)
