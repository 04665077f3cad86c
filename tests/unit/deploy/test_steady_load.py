"""deploy/steady-load.py: what it says of a server that is right, wrong, or fails."""

import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "steady-load.py"
NUM_QUESTIONS = 12
NUM_ASKED = 3 * NUM_QUESTIONS
RIGHT = (200, {"text": "Paris"})


class Server(ThreadingHTTPServer):
    """Gives every question the right answer, but for one after those that are asked undisturbed."""

    def __init__(self, disturbed: tuple[int, dict[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.disturbed = disturbed
        self.numbers = itertools.count()
        self.has_been_asked = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        number = next(self.server.numbers)
        status, answer = self.server.disturbed if number == 2 * NUM_QUESTIONS else RIGHT
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if number >= NUM_ASKED:
            self.server.has_been_asked.set()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(disturbed: tuple[int, dict[str, str]]) -> Iterator[Server]:
    with Server(disturbed) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("disturbed", "flags", "status"),
    [
        (RIGHT, [], 0),
        ((200, {"text": "Lyon"}), [], 1),
        ((200, {"text": "Lyon"}), ["--any-text"], 0),
        ((503, {"text": "Paris"}), ["--any-text"], 1),
        ((200, {}), ["--any-text"], 1),
    ],
    ids=["right", "wrong text", "any text", "refused", "no text"],
)
def test_one_bad_answer_is_a_bad_end(disturbed: tuple[int, dict[str, str]], flags: list[str], status: int) -> None:
    with serving(disturbed) as server:
        command = [sys.executable, str(SCRIPT), *flags, f"http://127.0.0.1:{server.server_port}", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            has_asked = server.has_been_asked.wait(60)
            load.send_signal(signal.SIGTERM)
            said, _ = load.communicate(timeout=60)
    assert has_asked, said
    assert load.returncode == status, said


def test_a_server_that_is_not_there_is_a_bad_end() -> None:
    with serving(RIGHT) as server:
        url = f"http://127.0.0.1:{server.server_port}"
    ended = subprocess.run([sys.executable, str(SCRIPT), url], capture_output=True, check=False, timeout=60)
    assert ended.returncode == 1
