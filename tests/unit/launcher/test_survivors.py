"""However the launcher ends, no process outlives it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.launcher.children import ends

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for foreign processes by pidfd")

RIG = [sys.executable, "-m", "tests.unit.launcher.rig"]


@pytest.mark.parametrize(
    ("number", "expected_status"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_no_process_is_left(number: signal.Signals, expected_status: int) -> None:
    with subprocess.Popen(RIG, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pids = with_children(json.loads(launcher.stdout.readline()))
        launcher.send_signal(number)
        assert launcher.wait() == expected_status
        assert all(ends(pid) for pid in pids), "a process outlived the launcher"


def with_children(pids: list[int]) -> list[int]:
    """NATS itself is a child of its guard."""
    children = [
        int(pid) for parent in pids for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ]
    assert len(children) == 1, "the guard has one child: nats-server"
    return [*pids, *children]
