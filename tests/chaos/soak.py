"""Random faults under continuous streams, for as long as told: `python -m tests.chaos.soak --minutes 60 --seed 1`.

Exits with 0 only if every admitted stream was completed and equal to its undisturbed twin, and no prompt was computed
twice by a fault that leaves the workers alone.
"""

import argparse
import asyncio
import itertools
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.asks import mixture
from tests.chaos.attempt_tally import AttemptTally
from tests.chaos.clients import ChaosStream
from tests.chaos.faults import BROKER_RESTART, Action, Fault
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.gate import Gate
from tests.chaos.judge import Judge
from tests.chaos.moments import Moment, is_at
from tests.chaos.run import Expected, undisturbed
from tests.chaos.soak_report import BETWEEN_FAULTS, SoakReport
from tests.pipeline.system import StageInstance
from wire.messages import Stage

FAULTS = [
    *(Fault(action, stage) for action in Action if action is not Action.RESTART_BROKER for stage in Stage),
    BROKER_RESTART,
]
_ASKS_PER_STREAM = 4
_HIT_S = 0.5
_QUIET_S = 0.3
_POLL_S = 0.02
_FAULTS_PER_LINE = 25
_MOMENT_S = 1.0
_RAPID_MOMENT_S = 0.3
_AFTERMATH_S = 1.2
"""After an instance is back, what was lost meanwhile is found out: by doubt within 0.6 s, by two reports within 1 s."""
_ENOUGH_S = 60.0


class Soak:
    """Streams that never stop coming, and one fault after the other."""

    def __init__(
        self,
        fleet: Fleet,
        expected: Expected,
        chance: random.Random,
        num_streams: int,
        faults: Sequence[Fault],
        *,
        is_rapid: bool = False,
    ) -> None:
        """A rapid one strikes again as soon as every stream that was hit goes on."""
        self.report = SoakReport()
        self._fleet = fleet
        self._expected = expected
        self._asks = list(expected)
        self._chance = chance
        self._faults = faults
        self._is_rapid = is_rapid
        self._num_streams = num_streams
        self._in_flight: set[ChaosStream] = set()
        self._is_over = False
        self._is_cut_short = False
        self._judge = Judge(self.report, expected)
        self._tally = AttemptTally(fleet)
        self._gate = Gate()
        self._mended_at = 0.0
        self._replacing: dict[Stage, asyncio.Task[None]] = {}

    async def run(self, until: float, max_faults: int) -> None:
        """Ends at the time, after the faults or when it is stopped, and then when the last stream has ended."""
        readers = [asyncio.create_task(self._keep_reading()) for _ in range(self._num_streams)]
        try:
            while not self._is_over and time.monotonic() < until and self.report.faults.total() < max_faults:
                await self._disturb(self._next_fault())
                if not self.report.faults.total() % _FAULTS_PER_LINE:
                    print(self.report.line(), flush=True)
            self._is_over = True
            await asyncio.gather(*readers, *self._replacing.values())
            self.report.attempts[BETWEEN_FAULTS] += await self._tally.news()
        finally:
            self._is_cut_short = True  # a stream that we end here tells nothing
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    def stop(self) -> None:
        """No more faults and no new streams; those in flight are read to their ends."""
        self._is_over = True

    async def _keep_reading(self) -> None:
        while not self._is_over:
            await self._gate.passed()
            gateway = self._chance.choice(self._fleet.present(Stage.GATEWAY))
            ask = self._chance.choice(self._asks)
            stream = ChaosStream(ask, self._fleet.client(gateway), gateway.instance_id, lambda _: None)
            self._in_flight.add(stream)
            await stream.read()
            self._in_flight.remove(stream)
            if not self._is_cut_short:
                self._judge.take(stream)

    def _next_fault(self) -> Fault:
        """Any; a rapid soak takes the rarest so far of those that need not wait for a replacement."""
        if not self._is_rapid:
            return self._chance.choice(self._faults)
        ready = [fault for fault in self._faults if all(task.done() for task in self._obstacles(fault).values())]
        return min(ready or self._faults, key=lambda fault: (self.report.faults[fault.name], self._chance.random()))

    def _obstacles(self, fault: Fault) -> dict[Stage, asyncio.Task[None]]:
        """The replacements that must be there first. A worker that hands over has its prefills repeated elsewhere."""
        return {stage: task for stage, task in self._replacing.items() if stage is fault.stage or fault.leaves_workers}

    async def _disturb(self, fault: Fault) -> None:
        for stage, replacing in self._obstacles(fault).items():
            await replacing
            del self._replacing[stage]
        await self._until(self._is_settled)
        victim = None if fault.stage is None else await self._fleet.busiest(fault.stage)
        if fault.leaves_workers:  # nothing may begin or be repaired, so that whatever is prefilled is prefilled twice
            await self._until(lambda: time.monotonic() - self._mended_at > _AFTERMATH_S)
            self._gate.close()
            await self._until(self._is_settled)
        self.report.attempts[BETWEEN_FAULTS] += await self._tally.news()
        taken_before = await self._fleet.num_prompt_tokens_taken()
        await self._at_a_moment(None if fault.leaves_workers else self._chance.choice(list(Moment)))
        await self._strike(fault, victim)
        attempts = await self._tally.news()
        self.report.attempts[fault.name] += attempts
        if fault.leaves_workers:
            self.report.note_repeated(
                fault.name, round(await self._fleet.num_prompt_tokens_taken() - taken_before), attempts
            )
            self._gate.open()

    async def _strike(self, fault: Fault, victim: StageInstance | None) -> None:
        self.report.faults[fault.name] += 1
        if victim is not None and fault.stage is Stage.GATEWAY:
            self._judge.note_struck(fault.action, victim.instance_id)
        struck_at = time.monotonic()
        hit = tuple(self._in_flight)
        fault.strike(self._fleet, victim)
        if fault.stage is not None and fault.action in (Action.KILL, Action.DRAIN):
            self._replacing[fault.stage] = asyncio.create_task(self._replace(fault, fault.stage, victim))
        if not fault.ends_with_its_streams:
            await fault.mend(self._fleet, victim, until_known=not self._is_rapid)
        mended_at = time.monotonic()
        if not fault.leaves_workers:
            self._mended_at = mended_at
        if victim is not None and fault.stage is Stage.GATEWAY:
            self._judge.note_mended(victim.instance_id)
        heard_from = mended_at if fault.action is Action.DRAIN else struck_at + _QUIET_S  # it hands over as it leaves
        await self._until(lambda: all(_goes_on_since(heard_from, stream) for stream in hit))
        pauses = [pause for stream in hit if (pause := _pause_since(struck_at, stream)) >= _HIT_S]
        self.report.note_pauses(fault.name, pauses, mended_at - struck_at if fault.is_absence else 0.0)

    async def _replace(self, fault: Fault, stage: Stage, victim: StageInstance | None) -> None:
        if fault.action is Action.DRAIN:
            await fault.mend(self._fleet, victim)
        await self._fleet.replenish([stage])

    async def _at_a_moment(self, moment: Moment | None) -> None:
        """Waits until some stream is there, unless that takes too long."""
        latest = time.monotonic() + self._chance.uniform(0, _RAPID_MOMENT_S if self._is_rapid else _MOMENT_S)
        while time.monotonic() < latest:
            if moment and any(is_at(moment, stream, self._expected[stream.ask]) for stream in self._in_flight):
                self.report.moments[moment.value] += 1
                return
            await asyncio.sleep(_POLL_S)
        self.report.moments["at any time"] += 1

    def _is_settled(self) -> bool:
        """Every choice of every stream has begun, and no stream is in a pause."""
        now = time.monotonic()
        return all(
            _has_begun(stream, self._expected[stream.ask]) and now - stream.arrivals[-1][0] < _HIT_S
            for stream in tuple(self._in_flight)
        )

    async def _until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _ENOUGH_S
        while not holds():
            assert time.monotonic() < deadline, "streams do not go on"
            await asyncio.sleep(_POLL_S)


def _has_begun(stream: ChaosStream, twin: ChaosStream) -> bool:
    """Whether every choice has a token: each has the prompt to itself, as the workers count.

    OpenAI's chunks count the tokens of all choices together, so that only the logprobs tell whose they are.
    """
    if len(twin.choices) == 1:
        return stream.num_tokens > 0
    begun = [index for index, shown in stream.choices.items() if shown.token_ids or shown.logprobs]
    return len(begun) == len(twin.choices)


def _goes_on_since(moment: float, stream: ChaosStream) -> bool:
    return stream.is_over or (bool(stream.arrivals) and stream.arrivals[-1][0] > moment)


def _pause_since(struck_at: float, stream: ChaosStream) -> float:
    """The longest time without anything new that was not over when the fault fell."""
    moments = [at for at, _ in stream.arrivals]
    pauses = [late - early for early, late in itertools.pairwise(moments) if late > struck_at]
    return max(pauses, default=0.0)


async def soak(
    fleet: Fleet,
    minutes: float,
    max_faults: int,
    seed: int,
    num_streams: int,
    faults: Sequence[Fault] = FAULTS,
    *,
    is_rapid: bool = False,
) -> SoakReport:
    """Learns what the asks give, then disturbs, until the end or an interrupt."""
    expected: Expected = {}
    asks = mixture(_ASKS_PER_STREAM * num_streams)
    for first in range(0, len(asks), num_streams):
        expected |= await undisturbed(fleet, asks[first : first + num_streams])
    running = Soak(fleet, expected, random.Random(seed), num_streams, faults, is_rapid=is_rapid)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)  # the next one interrupts what is under way
        running.stop()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        await running.run(time.monotonic() + 60 * minutes, max_faults)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await fleet.close_clients()
        print(running.report.text())
    await fleet.replenish()
    fleet.at_rest()
    return running.report


def faults_called(names: str) -> list[Fault]:
    """Those whose own names have all words of one of these, which stand between commas; a name of none is an error."""
    words_of = {fault: set(fault.name.split()) for fault in FAULTS}
    asked = {name: set(name.split()) for name in names.split(",")}
    for name, words in asked.items():
        if not words or not any(words <= known for known in words_of.values()):
            all_words = ", ".join(sorted(set().union(*words_of.values())))
            raise argparse.ArgumentTypeError(f"no fault is called {name!r}: words are {all_words}")
    return [fault for fault, known in words_of.items() if any(words <= known for words in asked.values())]


def main() -> None:
    """Runs a soak and prints its tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, at most")
    parser.add_argument("--faults", type=int, default=sys.maxsize, help="how many, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults and asks")
    parser.add_argument("--streams", type=int, default=32, help="how many at a time")
    parser.add_argument("--rapid", action="store_true", help="the next fault as soon as all streams go on")
    parser.add_argument(
        "--only",
        type=faults_called,
        default=FAULTS,
        metavar="WORDS",
        help="faults whose names have these words, such as kill, or 'cut worker'; several by commas",
    )
    parser.add_argument("--log", type=Path, help="where to put what all processes have logged")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_fleet(Path(folder)) as fleet:
        try:
            report = asyncio.run(
                soak(fleet, given.minutes, given.faults, given.seed, given.streams, given.only, is_rapid=given.rapid)
            )
        finally:
            if given.log:
                given.log.write_text(fleet.logs, encoding="utf-8")
    sys.exit(not report.is_flawless)


if __name__ == "__main__":
    main()
