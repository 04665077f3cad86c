"""What is done to a fleet while streams run, and how it is made whole again."""

import asyncio
import enum
from dataclasses import dataclass

from tests.chaos.fleet import BROKER_DOWNTIME_S, Fleet
from tests.pipeline.system import StageInstance
from wire.messages import Stage


class Action(enum.Enum):
    """One way to disturb."""

    KILL = "kill"
    PAUSE = "pause"
    FREEZE = "freeze the link of"
    CUT = "cut the link of"
    DRAIN = "drain"
    RESTART_BROKER = "restart"


@dataclass(frozen=True, slots=True)
class Fault:
    """An action on an instance of a stage, or on the broker."""

    action: Action
    stage: Stage | None = None

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.action.value} {self.stage.value if self.stage else 'the broker'}"

    @property
    def leaves_workers(self) -> bool:
        """Whether every worker keeps its sequences, so that no prompt has to be computed again."""
        return self.action is Action.RESTART_BROKER or self.stage is Stage.DETOKENIZER

    @property
    def is_absence(self) -> bool:
        """Whether nobody can go on before it is over: the broker's, or that of a gateway for its own streams."""
        is_away = self.action in (Action.PAUSE, Action.FREEZE, Action.CUT)
        return self.action is Action.RESTART_BROKER or (self.stage is Stage.GATEWAY and is_away)

    @property
    def ends_with_its_streams(self) -> bool:
        """Whether it takes as long as what the victim has to do, and pauses nobody: a gateway hands nothing over."""
        return self.action is Action.DRAIN and self.stage is Stage.GATEWAY

    def strike(self, fleet: Fleet, victim: StageInstance | None) -> None:
        """Does it, now."""
        if victim is None:
            fleet.broker.stop()
            return
        strike = {
            Action.KILL: fleet.kill,
            Action.PAUSE: fleet.pause,
            Action.FREEZE: fleet.freeze_link,
            Action.CUT: fleet.cut_link,
            Action.DRAIN: fleet.drain,
        }
        strike[self.action](victim)

    async def mend(self, fleet: Fleet, victim: StageInstance | None, *, until_known: bool = True) -> None:
        """Ends what was done, at the earliest when the others have noticed; who died is not replaced.

        Returns when everybody knows how things are now, or at once without `until_known`.
        """
        if victim is None:
            await asyncio.sleep(BROKER_DOWNTIME_S)  # which is the fault
            await asyncio.to_thread(fleet.broker.start)
        elif self.action is Action.DRAIN:
            status = await asyncio.to_thread(victim.process.wait)
            assert status == 0, victim.process.log
        elif self.action is not Action.KILL:
            await fleet.until_known()
            (fleet.resume if self.action is Action.PAUSE else fleet.heal_link)(victim)
        if until_known:
            await fleet.until_known()


BROKER_RESTART = Fault(Action.RESTART_BROKER)
