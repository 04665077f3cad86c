"""Fixtures that every suite may use."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

# Without a GPU the Triton kernels run in Triton's interpreter, which must be chosen before anything imports Triton.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

from launcher.nats import ANY_PORT, ReadyDetector, config_text, find_nats_server


@contextmanager
def running_nats_server(folder: Path, port: int = ANY_PORT) -> Iterator[str]:
    """A real nats-server, configured as the launcher does; yields its URL."""
    config = folder / "nats.conf"
    config.write_text(config_text(port), encoding="utf-8")
    with nats_server_of(config) as url:
        yield url


@contextmanager
def nats_server_of(config: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """A real nats-server with a configuration that is there already. It never outlives the test run."""
    with subprocess.Popen(
        [sys.executable, "-m", "launcher.guard", str(find_nats_server()), "-c", str(config), *arguments],
        env={**os.environ, **(environ or {})},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        ready = _wait_until_ready(server.stderr)
        # Whatever it logs from here on must be read, else it blocks once the pipe is full.
        reader = threading.Thread(target=deque, args=(server.stderr, 0))
        reader.start()
        try:
            yield f"nats://127.0.0.1:{ready}"
        finally:
            server.terminate()
            reader.join()


def _wait_until_ready(log: IO[str]) -> int:
    ready = ReadyDetector()
    lines = []
    for line in log:
        lines.append(line)
        if ready.feed(line) and ready.port is not None:
            return ready.port
    raise AssertionError("nats-server did not start:\n" + "".join(lines))


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One nats-server for the whole run; subjects must not clash, so use a model name or an instance id of your own."""
    with running_nats_server(tmp_path_factory.mktemp("nats")) as url:
        yield url
