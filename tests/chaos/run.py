"""Streams in flight at once, and an injection at the very moment when a client has seen what it waits for."""

import asyncio
from collections.abc import Callable, Sequence

from tests.chaos.asks import Ask
from tests.chaos.clients import ChaosStream
from tests.chaos.equality import differences
from tests.chaos.fleet import Fleet
from tests.chaos.moments import MIDDLE_TOKENS, Moment, is_at
from tests.pipeline.system import StageInstance
from wire.messages import Stage

Expected = dict[Ask, ChaosStream]
"""What every ask gives when nothing happens."""

_NUM_PILOTS = 4
_ENOUGH_S = 120.0


class Run:
    """Reads streams over all gateways that take requests, alternating. Lives inside one event loop."""

    def __init__(self, fleet: Fleet, asks: Sequence[Ask]) -> None:
        self.fleet = fleet
        self.streams: list[ChaosStream] = []
        self._asks = asks
        self._tasks: list[asyncio.Task[ChaosStream]] = []
        self._waiting: list[tuple[Callable[[], bool], Callable[[], object], asyncio.Future[None]]] = []

    def begin(self, num_streams: int | None = None) -> None:
        """Starts so many more of the streams, or the rest of them."""
        gateways = self.fleet.present(Stage.GATEWAY)
        first = len(self.streams)
        for number, ask in enumerate(self._asks[first : num_streams and first + num_streams], first):
            gateway = gateways[number // 2 % len(gateways)]
            stream = ChaosStream(ask, self.fleet.client(gateway), gateway.instance_id, self._on_news)
            self.streams.append(stream)
            self._tasks.append(asyncio.create_task(stream.read()))

    async def begin_with_pilots(self, stage: Stage) -> StageInstance:
        """Starts all streams, the rest a moment after a few that show which instance of a stage is in use."""
        self.begin(_NUM_PILOTS)
        await self.until(lambda: all(stream.num_tokens for stream in self.streams))
        victim = await self.fleet.busiest(stage)
        self.begin()
        return victim

    async def until(self, holds: Callable[[], bool], act: Callable[[], object] = lambda: None) -> None:
        """Calls `act` in the very turn of the loop in which something new has made `holds` true."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((holds, act, reached))
        self._look()
        await asyncio.wait_for(reached, _ENOUGH_S)

    async def at(self, moment: Moment, expected: Expected, act: Callable[[], object]) -> None:
        """Calls `act` when the streams that are not over are at this moment."""
        await self.until(lambda: self._is_at(moment, expected), act)

    async def finished(self) -> list[ChaosStream]:
        """Every stream, at its end."""
        return list(await asyncio.wait_for(asyncio.gather(*self._tasks), _ENOUGH_S))

    def _on_news(self, _: ChaosStream) -> None:
        self._look()

    def _look(self) -> None:
        for entry in tuple(self._waiting):
            holds, act, reached = entry
            if holds():
                self._waiting.remove(entry)
                act()
                reached.set_result(None)

    def _is_at(self, moment: Moment, expected: Expected) -> bool:
        streams = self.streams
        if moment is Moment.BEFORE_FIRST_TOKEN:
            return sum(stream.is_open for stream in streams) > len(streams) // 2
        if not all(stream.num_tokens for stream in streams):
            return False  # a prompt may be computed twice until its first token has come, and never after that
        if moment is Moment.MIDDLE:
            return all(stream.is_over or stream.num_tokens >= MIDDLE_TOKENS for stream in streams)
        num_wanted = 1 if moment is Moment.LAST_TOKEN else max(1, len(streams) // 16)
        return sum(is_at(moment, stream, expected[stream.ask]) for stream in streams) >= num_wanted


async def undisturbed(fleet: Fleet, asks: Sequence[Ask]) -> Expected:
    """Runs every ask once while nothing happens to the fleet."""
    run = Run(fleet, asks)
    run.begin()
    streams = await run.finished()
    assert not [stream.error for stream in streams if stream.error]
    return {stream.ask: stream for stream in streams}


def assert_equal(streams: Sequence[ChaosStream], expected: Expected) -> None:
    """No stream differs in anything from its undisturbed twin."""
    found = [line for stream in streams for line in differences(stream, expected[stream.ask])]
    assert not found, f"{len(found)} differences among {len(streams)} streams:\n" + "\n".join(found)
