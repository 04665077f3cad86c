"""Small programs to supervise, and a recorder of what they say."""

import asyncio
import os
import select
import sys
from collections.abc import Callable

from launcher.keeper import Keeper, RestartPolicy
from launcher.output import OutputLine
from launcher.processes import ProcessSpec

# Says ready; leaves with a word when it is asked to, and when standard input ends.
POLITE = """
import os, signal, sys
def leave(*_):
    print("leaving", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", os.getpid(), flush=True)
sys.stdin.read()
leave()
"""
# Says ready; leaves with a word when it is asked to, and only then.
PATIENT = """
import os, signal
def leave(*_):
    print("leaving", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""
# Says ready and will not go.
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""
# Starts a child of its own that will not go, and says its process id.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), flush=True)
sys.stdin.read()
"""
NEVER_READY = "import sys; print('no such model'); sys.exit(1)"
WRONG_SETTINGS = "import sys; print('bad flag'); sys.exit(2)"
READY_AND_DEAD = "import sys; print('ready', flush=True); sys.exit(1)"

_SOON_S = 30.0

QUICK = RestartPolicy(first_delay_s=0.001, max_delay_s=0.001)


class Recorder:
    """Every line that the processes wrote, in order of arrival."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def show(self, name: str, line: OutputLine) -> None:
        self.lines.append((name, line.text))
        self._changed.set()

    async def wait_for(self, is_enough: Callable[[list[tuple[str, str]]], bool]) -> None:
        while not is_enough(self.lines):
            self._changed.clear()
            await self._changed.wait()

    def texts(self, name: str) -> list[str]:
        return [text for shown_name, text in self.lines if shown_name == name]


def spec(name: str, program: str) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-c", program), dict(os.environ))


def keeper(name: str, program: str, recorder: Recorder, policy: RestartPolicy = QUICK) -> Keeper:
    return Keeper(name, lambda: spec(name, program), recorder.show, lambda line: line.startswith("ready"), policy)


def ends(pid: int) -> bool:
    """Whether a process, of whomever, has ended or does so soon. One that was killed takes a moment to be gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], _SOON_S)[0])
    finally:
        os.close(descriptor)
