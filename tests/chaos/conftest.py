"""One fleet for all cases; what a case ends is replaced before the next one."""

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from tests.chaos.asks import Ask
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.run import Expected, undisturbed


class Twins:
    """What asks give undisturbed; each is run once."""

    def __init__(self) -> None:
        self._known: Expected = {}

    async def of(self, fleet: Fleet, asks: Sequence[Ask]) -> Expected:
        """Runs what has not been run; nothing may be disturbed meanwhile."""
        if missing := sorted({*asks} - self._known.keys(), key=lambda ask: ask.name):
            self._known |= await undisturbed(fleet, missing)
        return self._known


@pytest.fixture(scope="session")
def twins() -> Twins:
    """Shared by all cases."""
    return Twins()


@pytest.fixture(scope="session")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two of everything."""
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture
async def fleet(shared_fleet: Fleet) -> AsyncIterator[Fleet]:
    """Complete and at rest, before a case and after it."""
    await shared_fleet.replenish()
    yield shared_fleet
    await shared_fleet.close_clients()
    await shared_fleet.replenish()
    shared_fleet.at_rest()
