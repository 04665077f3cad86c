"""What a log says of an instance that is given up while it is still there."""

import pytest

from gateway.inflight.recovery import TICK_S
from tests.unit.gateway.recovery.rig import Rig
from tests.unit.gateway.streams import WORKER, attempt_of, generation_of
from wire.messages import Stage

NUM_REQUESTS = 5
HANGS = "worker-1 is given up: it hangs in a step. Its requests go on elsewhere"
SILENT = "worker-1 is given up: it tells nothing of its requests, although its heartbeats come. " + (
    "Its requests go on elsewhere"
)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "gateway.inflight.notices"]


def run(rig: Rig, first_key: int) -> None:
    """Some requests run at the worker, which says so."""
    keys = range(first_key, first_key + NUM_REQUESTS)
    for key in keys:
        attempt_of(
            rig.in_flight, generation_of(rig.in_flight), key, heard_at=rig.clock.now, worker_id=WORKER.instance_id
        )


def test_a_worker_that_hangs_is_named_once_however_many_requests_leave_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.run()
    run(rig, 2)
    rig.beat(Stage.WORKER, step_age_s=61.0)
    rig.wait(TICK_S)
    run(rig, 20)
    rig.beat(Stage.WORKER, step_age_s=61.5)
    rig.wait(TICK_S)

    assert len(rig.counted.repairs) == 1 + 2 * NUM_REQUESTS
    assert told(caplog) == [HANGS]


def test_a_worker_that_hangs_again_is_named_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for first_key, step_age_s in ((2, 61.0), (20, 0.0), (40, 61.0)):
        run(rig, first_key)
        rig.beat(Stage.WORKER, step_age_s=step_age_s)
        rig.wait(TICK_S)

    assert told(caplog) == [HANGS, HANGS]


def test_a_worker_that_tells_nothing_is_named_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.run()
    run(rig, 2)
    for _ in range(5):
        rig.beat(Stage.WORKER)
        rig.wait(0.5)

    assert len(rig.counted.repairs) == 1 + NUM_REQUESTS
    assert told(caplog) == [SILENT]
