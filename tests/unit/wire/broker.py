"""A nats-server that a test may stop and start again on the same port."""

import re
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path

from launcher.nats import config_text, find_nats_server

_LISTENING = re.compile(r"Listening for client connections on \S+:(\d+)")


class Broker:
    """Runs from `start` to `stop`; its port is chosen by the first start and then stays."""

    def __init__(self, folder: Path, extra_config: str = "") -> None:
        self._config = folder / "broker.conf"
        self._extra_config = extra_config
        self._port = -1
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when clients can connect."""
        self._config.write_text(config_text(self._port) + self._extra_config, encoding="utf-8")
        self._process = subprocess.Popen(
            [find_nats_server(), "-c", self._config],
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            process_group=0,  # an interrupt at the terminal is for us, and we end it
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := _LISTENING.search(line):
                self._port = int(found[1])
            if "Server is ready" in line:
                break
        self._reader = threading.Thread(target=deque, args=(self._process.stderr, 0))
        self._reader.start()

    def reconfigure(self, extra_config: str) -> None:
        """Reloads with another tail of the configuration."""
        assert self._process is not None
        self._config.write_text(config_text(self._port) + extra_config, encoding="utf-8")
        self._process.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """Lets the server hang, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends the server and waits for its end; a stopped one stays stopped."""
        if self._process is not None and self._reader is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None
