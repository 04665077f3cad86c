"""What every stage's composition root builds first: identity, connections, members, metrics, tracing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from wire import subjects
from wire.background import BackgroundTasks
from wire.bus import Bus
from wire.lifecycle import Instance
from wire.logs import configure_logging
from wire.messages import Heartbeat, InstanceState, Stage
from wire.metrics import BusMetrics, report_readiness, serve_metrics
from wire.presence import MemberTable, Presence
from wire.settings import CommonSettings
from wire.telemetry import Tracing

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Node:
    """One process in the pipeline. Data travels on `data`; presence, aborts and acknowledgements on `control`, so
    that neither starves the other."""

    instance: Instance
    data: Bus
    control: Bus
    members: MemberTable
    registry: CollectorRegistry
    tracing: Tracing
    background: BackgroundTasks = field(default_factory=BackgroundTasks)

    @classmethod
    async def connect(cls, common: CommonSettings, stage: Stage, served_model_name: str) -> "Node":
        """Connects to the broker; raises ConnectionError if there is none."""
        configure_logging(common.log_level)
        instance = Instance(stage, served_model_name)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        metrics = BusMetrics(registry)
        options = msgspec.structs.replace(common.bus_options(), inbox_prefix=subjects.inbox(stage))
        data = await Bus.connect(options, instance.instance_id, metrics)
        control = await Bus.connect(options, f"{instance.instance_id}-control", metrics)
        report_readiness(registry, lambda: instance.state is InstanceState.READY)
        serve_metrics(registry, common.metrics_port)
        tracing = Tracing(common.otlp_endpoint, common.trace_sample_ratio, stage, instance.instance_id)
        members = MemberTable(common.heartbeat_timeout)
        return cls(instance, data, control, members, registry, tracing)

    def presence(self, describe: Callable[[], Heartbeat]) -> Presence:
        """The heartbeats of this process; `describe` gives the one of this moment."""
        return Presence(self.control, self.members, describe, self.background)

    async def close(self) -> None:
        """Closes both connections and exports the last spans."""
        try:
            await self.data.close()
        finally:
            await self.control.close()
            self.tracing.shutdown()
