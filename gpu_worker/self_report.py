"""What a worker says of itself: the heartbeat of this moment, and the figures that `Describe` shows."""

from typing import Any

import msgspec

from gpu_worker.backlog import Backlog
from gpu_worker.engine_host import EngineHost
from gpu_worker.held_requests import HeldRequests
from gpu_worker.step_log import StepLog
from wire.codec import WIRE_LEVEL
from wire.lifecycle import Instance
from wire.messages import Heartbeat


def heartbeat(
    instance: Instance, host: EngineHost, held: HeldRequests, backlog: Backlog, step_timeout_s: float
) -> Heartbeat:
    """State and load; without a model yet, only the state."""
    bare = Heartbeat(
        stage=instance.stage,
        peer=instance.peer,
        state=instance.state,
        served_model_name=instance.served_model_name,
        wire_level=WIRE_LEVEL,
    )
    loaded = host.loaded
    if loaded is None:
        return bare
    engine = loaded.engine
    num_running, num_waiting = len(engine.running()), len(engine.waiting())
    return msgspec.structs.replace(
        bare,
        num_running=num_running,
        num_waiting=num_waiting,
        backlog_s=backlog.seconds(num_waiting, num_running),
        model_fingerprint=loaded.fingerprint,
        context_length=loaded.context_length,
        num_pages_used=engine.num_used_pages,
        num_pages_total=engine.num_pages,
        page_size=loaded.page_size,
        step=host.step,
        step_age_s=host.step_age_s,
        num_states=len(held),
        step_timeout_s=step_timeout_s,
    )


def stats(host: EngineHost, held: HeldRequests, step_log: StepLog) -> dict[str, Any]:
    """Counts by name; empty before the model is loaded."""
    loaded = host.loaded
    if loaded is None:
        return {}
    engine = loaded.engine
    return {
        "num_held_requests": len(held),
        "num_running": len(engine.running()),
        "num_waiting": len(engine.waiting()),
        "num_pages": engine.num_pages,
        "num_used_pages": engine.num_used_pages,
        "num_cached_pages": engine.num_cached_pages,
        "max_total_num_tokens": engine.num_pages * loaded.page_size,
        "last_gen_throughput": step_log.gen_throughput,
        "step": host.step,
    }
