"""Processes of a benchmark: started, watched for CPU time, and ended with it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx

from launcher.nats import ANY_PORT, ReadyDetector, config_text, find_nats_server


class ProcessGroup:
    """The processes by name. Leaving the context ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children.values()):
            child.terminate()
        for child in self._children.values():
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()

    def start_nats(self) -> str:
        """Starts a broker as the launcher configures it; returns its URL."""
        config, log = self.folder / "nats.conf", self.folder / "nats.log"
        config.write_text(config_text(ANY_PORT), encoding="utf-8")
        self._start("nats", [str(find_nats_server()), "-c", str(config)], {}, log)
        ready = ReadyDetector()
        deadline = time.monotonic() + 10
        while not any(ready.feed(line) for line in log.read_text(encoding="utf-8").splitlines()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nats-server did not start: {log.read_text(encoding='utf-8')}")
            time.sleep(0.05)
        return f"nats://127.0.0.1:{ready.port}"

    def start_module(self, name: str, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Starts `python -m module`, its log in the folder."""
        self._start(name, [sys.executable, "-m", module, *arguments], variables, self.folder / f"{name}.log")

    def _start(self, name: str, command: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MILLRACE_")}
        with log.open("w", encoding="utf-8") as output:
            self._children[name] = subprocess.Popen(
                command, env=environment | dict(variables), stdout=output, stderr=output, text=True
            )

    def wait_for_http(self, url: str, timeout_s: float = 60.0) -> None:
        """Returns when `url` answers 200; raises RuntimeError if a process ends, TimeoutError after the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                httpx.get(url, timeout=2).raise_for_status()
                return
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url} is not ready within {timeout_s:g} s; logs in {self.folder}") from error
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text(encoding='utf-8')}")
            time.sleep(0.1)

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each process so far, user and system."""
        return {name: _cpu_seconds(child.pid) for name, child in self._children.items()}


def _cpu_seconds(pid: int) -> float:
    """Of all threads, as the scheduler counted it; clock ticks would count double what wakes with the clock."""
    statistics = [file.read_text(encoding="ascii") for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(line.split()[0]) for line in statistics) / 1e9


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
