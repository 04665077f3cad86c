"""deploy/rolling-restart.sh, with a `docker` that only writes down what it is asked for."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "deploy" / "rolling-restart.sh"
DOCKER = """#!/bin/sh
echo "$*" >>"$ASKED"
case "$*" in
    "compose ps"*) echo "one two" ;;
    *Health*) echo healthy ;;
    *ExitCode*one) echo "$STATUS_OF_ONE" ;;
    *ExitCode*) echo 0 ;;
    *Name*) echo "a name" ;;
esac
"""


def restarted(folder: Path, status_of_one: int) -> tuple[int, list[str]]:
    """The script's exit status, and the containers that were stopped and the successors that were started, in order."""
    docker = folder / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    asked = folder / "asked"
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(asked), "STATUS_OF_ONE": str(status_of_one)}
    ended = subprocess.run(["sh", SCRIPT, "gpu-worker"], env=environ, capture_output=True, check=False, timeout=60)
    lines = asked.read_text().splitlines()
    return ended.returncode, [line.split(" --")[0] for line in lines if line.startswith(("stop", "compose up"))]


def test_each_one_leaves_when_the_successor_of_the_last_is_there(tmp_path: Path) -> None:
    status, done = restarted(tmp_path, status_of_one=0)
    assert status == 0
    assert done == ["compose up -d", "stop one", "compose up -d", "stop two", "compose up -d"]


def test_after_one_that_did_not_leave_in_peace_nothing_more_is_stopped(tmp_path: Path) -> None:
    status, done = restarted(tmp_path, status_of_one=137)
    assert status == 1
    assert done == ["compose up -d", "stop one", "compose up -d"]
