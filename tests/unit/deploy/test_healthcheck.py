"""deploy/healthcheck.py against a real metrics page."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from wire.metrics import report_readiness

HEALTHCHECK = Path(__file__).parents[3] / "deploy" / "healthcheck.py"


@contextmanager
def metrics_page(*, is_ready: bool) -> Iterator[int]:
    registry = CollectorRegistry()
    report_readiness(registry, lambda: is_ready)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def exit_status(port: int) -> int:
    command = [sys.executable, str(HEALTHCHECK), str(port)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode


def test_a_stage_that_takes_work_is_healthy() -> None:
    with metrics_page(is_ready=True) as port:
        assert exit_status(port) == 0


def test_a_stage_that_still_loads_or_drains_is_not() -> None:
    with metrics_page(is_ready=False) as port:
        assert exit_status(port) == 1


def test_a_stage_that_is_gone_is_not() -> None:
    with metrics_page(is_ready=True) as port:
        pass
    assert exit_status(port) == 1
