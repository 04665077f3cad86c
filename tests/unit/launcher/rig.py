"""A small launcher for `test_survivors`: NATS and two processes; prints their process ids once all are ready."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from launcher.embedded_nats import EmbeddedNats
from launcher.keeper import Keeper, kept
from launcher.output import OutputLine
from launcher.supervisor import Supervisor
from tests.unit.launcher.children import POLITE, spec


async def main() -> None:
    def show(name: str, line: OutputLine) -> None:
        print(f"{name}: {line.text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        nats = EmbeddedNats(Path(folder), dict(os.environ))
        server = Keeper("nats", nats.spec, show, nats.is_ready_line)
        stages = [
            [Keeper(name, lambda name=name: spec(name, POLITE), show, lambda line: line.startswith("ready"))]
            for name in ("gateway-0", "worker-0")
        ]
        supervisor = Supervisor(stages, stop_timeout_s=60)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.request_stop)
        async with kept(server, stop_timeout_s=60):
            running = asyncio.create_task(supervisor.run())
            await supervisor.wait_ready()
            print(json.dumps([server.pid, *(tier[0].pid for tier in stages)]), flush=True)
            await running


asyncio.run(main())
