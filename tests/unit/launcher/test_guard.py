"""A guarded command ends with its guard's standard input, and its exit status is passed on."""

import subprocess
import sys

from tests.unit.launcher.children import PATIENT, STUBBORN, ends

GUARD = [sys.executable, "-m", "launcher.guard", sys.executable, "-c"]


def test_the_command_ends_when_standard_input_does() -> None:
    # STUBBORN ignores SIGTERM, so this also sees that the guard kills what does not go.
    for program, expected_status in ((PATIENT, 0), (STUBBORN, 128 + 9)):
        with subprocess.Popen([*GUARD, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guard:
            assert guard.stdin is not None
            assert guard.stdout is not None
            pid = int(guard.stdout.readline().split()[1])
            guard.stdin.close()
            assert guard.wait() == expected_status
            assert ends(pid)


def test_the_exit_status_is_the_commands() -> None:
    with subprocess.Popen([*GUARD, "raise SystemExit(7)"], stdin=subprocess.PIPE) as guard:
        assert guard.wait() == 7


def test_a_signal_to_the_guard_reaches_the_command() -> None:
    with subprocess.Popen([*GUARD, PATIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guard:
        assert guard.stdout is not None
        guard.stdout.readline()
        guard.terminate()
        assert guard.stdout.read() == "leaving\n"
        assert guard.wait() == 0
