"""The embedded NATS server as a kept process: its configuration, its password, its port across restarts."""

import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from launcher.nats import ANY_PORT, ReadyDetector, config_text, find_nats_server
from launcher.processes import ProcessSpec

NAME = "nats"
_USER = "millrace"
_NOTEWORTHY = re.compile(r"\[(WRN|ERR|FTL)\]|nats-server:")
_EXPECTED_WARNING = "Plaintext passwords detected"


class EmbeddedNats:
    """Makes the command, and learns the port from the log. Only this machine's processes that got the password (by
    environment) may connect."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """`folder` is private to the launcher."""
        self.user = _USER
        self.password = secrets.token_urlsafe(24)
        self._binary = find_nats_server()
        self._config = folder / "nats.conf"
        self._environ = environ
        self._detector = ReadyDetector()

    @property
    def url(self) -> str:
        """Where it listens; to be asked for once it is ready."""
        assert self._detector.port is not None, "the server has not said its port yet"
        return f"nats://127.0.0.1:{self._detector.port}"

    def spec(self) -> ProcessSpec:
        """The command. Once the port is known, a restart keeps it, so that every client finds the server again."""
        self._config.write_text(
            config_text(self._detector.port or ANY_PORT, self.user, self.password), encoding="utf-8"
        )
        command = (sys.executable, "-P", "-m", "launcher.guard", str(self._binary), "-c", str(self._config))
        return ProcessSpec(NAME, command, self._environ)

    def is_ready_line(self, line: str) -> bool:
        """Follows the server's log; the configuration, which holds the password, goes as soon as it has been read."""
        is_ready = self._detector.feed(line)
        if is_ready:
            self._config.unlink(missing_ok=True)
        return is_ready

    @staticmethod
    def is_noteworthy(line: str) -> bool:
        """Whether a line of its log is worth showing."""
        return bool(_NOTEWORTHY.search(line)) and _EXPECTED_WARNING not in line
