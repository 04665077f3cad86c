"""Whatever part dies, hangs, is cut off or leaves, at whatever token: every stream equals its undisturbed twin.

Every case runs streams of all kinds of asks at once; the moment is that of the fault in at least some of them.
"""

import asyncio
from collections.abc import Sequence

import pytest

from tests.chaos.asks import Ask, many_of, mixture
from tests.chaos.conftest import Twins
from tests.chaos.faults import BROKER_RESTART, Action, Fault
from tests.chaos.fleet import Fleet
from tests.chaos.moments import Moment
from tests.chaos.run import Expected, Run, assert_equal
from wire.messages import Stage

NUM_STREAMS = 32
NUM_STREAMS_ELSEWHERE = 16

KILLS = [
    *((Fault(Action.KILL, stage), moment) for stage in (Stage.WORKER, Stage.DETOKENIZER) for moment in Moment),
    *((BROKER_RESTART, moment) for moment in Moment),
    *((Fault(Action.KILL, Stage.TOKENIZER), moment) for moment in (Moment.BEFORE_FIRST_TOKEN, Moment.MIDDLE)),
]
OTHERS = [
    *((Fault(Action.PAUSE, stage), Moment.MIDDLE) for stage in Stage),
    (Fault(Action.PAUSE, Stage.TOKENIZER), Moment.BEFORE_FIRST_TOKEN),
    (Fault(Action.PAUSE, Stage.WORKER), Moment.BEFORE_FIRST_TOKEN),
    # Every stage is cut off once; the soak does both to all.
    *((Fault(Action.FREEZE, stage), Moment.MIDDLE) for stage in (Stage.WORKER, Stage.DETOKENIZER)),
    *((Fault(Action.CUT, stage), Moment.MIDDLE) for stage in (Stage.GATEWAY, Stage.TOKENIZER)),
    (Fault(Action.FREEZE, Stage.TOKENIZER), Moment.BEFORE_FIRST_TOKEN),
    *((Fault(Action.DRAIN, stage), Moment.MIDDLE) for stage in Stage),
    (Fault(Action.DRAIN, Stage.TOKENIZER), Moment.BEFORE_FIRST_TOKEN),
    (Fault(Action.DRAIN, Stage.WORKER), Moment.BEFORE_FIRST_TOKEN),
]


def names(cases: Sequence[tuple[Fault, Moment]]) -> list[str]:
    return [f"{fault.name} {moment.value}" for fault, moment in cases]


def asks_for(moment: Moment, num_streams: int) -> list[Ask]:
    if moment is Moment.INSIDE_CHARACTER:
        return many_of("characters", num_streams)
    if moment is Moment.INSIDE_STOP_STRING:
        return many_of("stops", num_streams)
    return mixture(num_streams)


def num_prompt_tokens(run: Run, expected: Expected) -> int:
    """What the workers have to take in for these streams, if they do it once: every choice has the prompt."""
    twins = [expected[stream.ask] for stream in run.streams]
    return sum(twin.usage["prompt_tokens"] * len(twin.choices) for twin in twins)


async def disturbed(fleet: Fleet, expected: Expected, asks: Sequence[Ask], fault: Fault, moment: Moment) -> Run:
    """Runs the asks through one fault, and mends it while they go on."""
    run = Run(fleet, asks)
    victim = await run.begin_with_pilots(fault.stage or Stage.WORKER)
    struck = None if fault.stage is None else victim
    await run.at(moment, expected, lambda: fault.strike(fleet, struck))
    await asyncio.gather(run.finished(), fault.mend(fleet, struck))
    return run


@pytest.mark.parametrize(("fault", "moment"), KILLS, ids=names(KILLS))
async def test_streams_outlive_a_death(fleet: Fleet, twins: Twins, fault: Fault, moment: Moment) -> None:
    asks = asks_for(moment, NUM_STREAMS)
    expected = await twins.of(fleet, asks)
    taken_before = await fleet.num_prompt_tokens_taken()
    run = await disturbed(fleet, expected, asks, fault, moment)
    assert_equal(run.streams, expected)
    if fault.leaves_workers and moment is not Moment.BEFORE_FIRST_TOKEN:
        taken = await fleet.num_prompt_tokens_taken() - taken_before
        assert taken == num_prompt_tokens(run, expected), "prefills were repeated"


@pytest.mark.parametrize(("fault", "moment"), OTHERS, ids=names(OTHERS))
async def test_streams_outlive_a_disturbance(fleet: Fleet, twins: Twins, fault: Fault, moment: Moment) -> None:
    asks = mixture(NUM_STREAMS_ELSEWHERE)
    expected = await twins.of(fleet, asks)
    run = await disturbed(fleet, expected, asks, fault, moment)
    assert_equal(run.streams, expected)


async def test_a_worker_that_was_cut_off_is_used_again(fleet: Fleet, twins: Twins) -> None:
    asks = mixture(NUM_STREAMS_ELSEWHERE)
    expected = await twins.of(fleet, asks)
    fault = Fault(Action.FREEZE, Stage.WORKER)
    victim = fleet.present(Stage.WORKER)[0]
    fault.strike(fleet, victim)
    await fault.mend(fleet, victim)
    before = await fleet.series(victim)
    run = Run(fleet, asks)
    run.begin()
    assert_equal(await run.finished(), expected)
    name = ("millrace_worker_output_tokens_total", "")
    assert (await fleet.series(victim))[name] > before[name]


async def test_nothing_of_a_dead_gateway_is_left_anywhere(fleet: Fleet, twins: Twins) -> None:
    asks = mixture(NUM_STREAMS)
    expected = await twins.of(fleet, asks)
    run = Run(fleet, asks)
    run.begin()
    dead = fleet.present(Stage.GATEWAY)[0]
    await run.at(Moment.MIDDLE, expected, lambda: fleet.kill(dead))
    streams = await run.finished()
    assert_equal([stream for stream in streams if stream.gateway_id != dead.instance_id], expected)
    await fleet.until_known()
    fleet.at_rest()
    for name in ("running_sequences", "waiting_sequences", "kv_used_tokens"):
        assert await fleet.total(Stage.WORKER, f"millrace_worker_{name}") == 0
