"""The composition root of a worker: `python -m gpu_worker`."""

import functools
import logging

from gpu_worker.engine_host import EngineHost
from gpu_worker.model_loading import load_model
from gpu_worker.service import WorkerLimits, WorkerService
from gpu_worker.settings import WorkerSettings
from gpu_worker.step_log import StepLog
from gpu_worker.worker_metrics import WorkerMetrics
from wire.lifecycle import run, serve
from wire.messages import Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings, public_values

log = logging.getLogger(__name__)


async def _serve(common: CommonSettings, settings: WorkerSettings) -> None:
    node = await Node.connect(common, Stage.WORKER, settings.model_name)
    shown = public_values(common) | public_values(settings)
    log.info("server_args=%s", shown)
    metrics = WorkerMetrics(node.registry)
    host = EngineHost(functools.partial(load_model, settings), metrics.note_failed_step)
    limits = WorkerLimits(common.drain_timeout, common.heartbeat_timeout, settings.step_timeout)
    service = WorkerService(node, host, metrics, limits, StepLog(settings.decode_log_interval), shown)
    await serve(node.instance, service, node.background, exit_on_stdin_eof=common.exit_on_stdin_eof)


def main() -> None:
    """Runs one worker until it is told to stop."""
    common, settings = load_settings("millrace worker", CommonSettings, WorkerSettings)
    run(_serve(common, settings))


if __name__ == "__main__":
    main()
