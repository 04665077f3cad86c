"""`millrace chat`, typed into as a person would, against a server with a script."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CHAT = [sys.executable, "-m", "launcher", "chat"]


class ScriptedServer(ThreadingHTTPServer):
    """Answers "one two three"; asked something `slow`, it waits after the first word until the client is gone."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ScriptedHandler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.client_left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class ScriptedHandler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": "scripted"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["Authorization"])
        last = body["messages"][-1]["content"]
        if last == "refuse":
            self._answer(400, {"object": "error", "message": "too long", "error": {"message": "too long"}})
            return
        self.send_response(200)
        self.end_headers()
        for word in ("one", " two", " three"):
            self._event({"choices": [{"delta": {"content": word}}]})
            if last == "slow":
                self.rfile.read(1)  # returns when the client closes
                self.server.client_left.set()
                return
        self._event({"choices": [], "usage": {"completion_tokens": 3}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        thread = threading.Thread(target=scripted.serve_forever)
        thread.start()
        try:
            yield scripted
        finally:
            scripted.shutdown()
            thread.join()


def chat(server_url: str, typed: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CHAT, "--url", server_url, *flags], input=typed, capture_output=True, text=True, check=False
    )


def roles_and_texts(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in body["messages"]]


def test_an_answer_is_shown_with_its_rate(server: ScriptedServer) -> None:
    ended = chat(server.url, "hello\n")
    assert ended.returncode == 0
    assert "one two three\n[3 tokens, first after " in ended.stdout
    assert "tokens/s]" in ended.stdout


def test_the_conversation_is_kept_until_a_reset(server: ScriptedServer) -> None:
    chat(server.url, "first\nsecond\n/reset\nthird\n/exit\nnever\n", "--system", "Be brief.")
    system = ("system", "Be brief.")
    assert [roles_and_texts(body) for body in server.bodies] == [
        [system, ("user", "first")],
        [system, ("user", "first"), ("assistant", "one two three"), ("user", "second")],
        [system, ("user", "third")],
    ]


def test_the_flags_reach_the_server(server: ScriptedServer) -> None:
    chat(server.url, "hello\n", "--model", "m", "--temperature", "0.5", "--max-tokens", "9", "--api-key", "sesame")
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 9)
    assert server.keys == ["Bearer sesame"]


def test_without_flags_the_model_is_the_servers_and_the_sampling_its_own(server: ScriptedServer) -> None:
    chat(server.url, "hello\n")
    assert server.bodies[0]["model"] == "scripted"
    assert not {"temperature", "max_tokens"} & server.bodies[0].keys()


def test_a_refused_question_is_forgotten(server: ScriptedServer) -> None:
    ended = chat(server.url, "refuse\nhello\n")
    assert "too long (HTTP 400)" in ended.stdout
    assert roles_and_texts(server.bodies[1]) == [("user", "hello")]


def test_no_server_is_one_line() -> None:
    ended = chat("http://127.0.0.1:9", "hello\n")
    assert ended.returncode == 1
    assert ended.stderr.startswith("millrace chat: no server at http://127.0.0.1:9")
    assert len(ended.stderr.splitlines()) == 1


def test_an_interrupt_ends_the_answer_and_not_the_chat(server: ScriptedServer) -> None:
    command = [sys.executable, "-u", *CHAT[1:], "--url", server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as terminal:
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        terminal.stdin.write("slow\n")
        terminal.stdin.flush()
        terminal.stdout.readline()  # the greeting
        assert terminal.stdout.read(3) == "one"
        terminal.send_signal(signal.SIGINT)
        assert "[aborted]" in terminal.stdout.readline()
        assert server.client_left.wait(30)
        terminal.communicate("hello\n")
        assert terminal.returncode == 0
    assert roles_and_texts(server.bodies[1]) == [("user", "slow"), ("assistant", "one"), ("user", "hello")]
