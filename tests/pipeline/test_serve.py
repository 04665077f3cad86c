"""`millrace serve` as a user runs it: one command, one port, and nothing left when it ends."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import requests

from tests.pipeline.process import LoggedProcess, environment, python_module
from tests.unit.launcher.children import ends

QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}
FLAGS = ["--port", "0", "--device", "cpu", "--max-total-tokens", "8192", "--num-threads", "1"]


def test_one_command_serves_survives_a_dead_worker_and_leaves_nothing() -> None:
    command = python_module("launcher", "serve", "--gateways", "2", "--trace-console", *FLAGS)
    millrace = LoggedProcess("millrace", command, environment(os.environ))
    try:
        url = millrace.wait_for_line(r"ready: (http://127.0.0.1:\d+) serves demo")[1]
        assert "Paris" in ask(url)
        millrace.wait_for_line(r"^trace [0-9a-f]{32}: .* finish stop, HTTP 200")
        millrace.wait_for_line(r"^ +detokenize +detokenizer-[0-9a-f]+ ")

        first_id = millrace.wait_for_line(r"\] (worker-[0-9a-f]+) is ready")[1]
        os.kill(pid_of(millrace, "gpu_worker"), signal.SIGKILL)
        millrace.wait_for_line(r"worker-0 was killed by SIGKILL, starting it again")
        millrace.wait_for_line(rf"\] (?!{first_id})worker-[0-9a-f]+ is ready")
        wait_until_served(url)
        assert "Paris" in ask(url)

        below = descendants(millrace.popen.pid)
        assert len(below) == 7, "two gateways, three other stages, NATS and its guard"
        millrace.popen.send_signal(signal.SIGINT)
        assert millrace.wait() == 0
        assert not [command for pid, command in below.items() if not ends(pid)]
    finally:
        millrace.end()


def ask(url: str) -> str:
    response = requests.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60)
    return str(response.json()["choices"][0]["message"]["content"])


def wait_until_served(url: str) -> None:
    """Both gateways, of which each call may reach either, hear of a new worker a moment after its log line."""
    deadline = time.monotonic() + 30
    num_ready = 0
    while num_ready < 10:
        is_ready = requests.get(f"{url}/ready", timeout=60).status_code == 200
        num_ready = num_ready + 1 if is_ready else 0
        assert time.monotonic() < deadline


def pid_of(millrace: LoggedProcess, module: str) -> int:
    return next(pid for pid, command in descendants(millrace.popen.pid).items() if module in command)


def descendants(ancestor: int) -> dict[int, str]:
    """Every process below, with its command line."""
    found: dict[int, str] = {}
    parents = [ancestor]
    while parents:
        parent = parents.pop()
        children = [
            int(pid)
            for task in Path(f"/proc/{parent}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]
        found |= {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children}
        parents += children
    return found
