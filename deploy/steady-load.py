"""Keeps a server busy and counts what goes wrong: run it beside a rolling restart, and end it with Ctrl-C or SIGTERM.

Needs nothing but Python. Every question is asked once before the load begins ("disturb it now"): that answer is the
right one. Then each client asks again as soon as it has an answer, on the same connection while that lasts. It exits
with 0 if every answer came and was right. Only with MILLRACE_DTYPE=float64 is the company in a batch sure to change
nothing; --any-text is for the others.
"""

import argparse
import collections
import http.client
import json
import signal
import sys
import threading
from urllib.parse import urlsplit

QUESTIONS = [f"{number}: The capital of" for number in range(12)]
EQUAL, DIFFERENT = "equal", "different"


class AskError(Exception):
    """No complete answer came."""


class Load:
    """What the clients share."""

    def __init__(self, address: str, api_key: str) -> None:
        self.address = address
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
        self.counts: collections.Counter[str] = collections.Counter()
        self.expected: dict[str, str] = {}
        self.is_stopping = threading.Event()
        self.lock = threading.Lock()

    def learn(self) -> None:
        """Asks every question once, undisturbed; raises `AskError`."""
        connection = self.connect()
        self.expected = {question: self.ask(connection, question) for question in QUESTIONS}
        connection.close()

    def run_client(self, number: int) -> None:
        """One client, until the end."""
        connection = self.connect()
        place = number
        while not self.is_stopping.is_set():
            outcome = self.outcome(connection, QUESTIONS[place % len(QUESTIONS)])
            place += 1
            with self.lock:
                self.counts[outcome] += 1

    def outcome(self, connection: http.client.HTTPConnection, question: str) -> str:
        """One answer in a word or two."""
        try:
            text = self.ask(connection, question)
        except AskError as failure:
            return f"failed: {failure}"
        return EQUAL if text == self.expected[question] else DIFFERENT

    def connect(self) -> http.client.HTTPConnection:
        """A connection that opens itself, and again after it was closed."""
        return http.client.HTTPConnection(self.address, timeout=120)

    def ask(self, connection: http.client.HTTPConnection, question: str) -> str:
        """The text of an answer; raises `AskError`."""
        parameters = {"max_new_tokens": 32, "temperature": 0, "ignore_eos": True}
        body = json.dumps({"text": question, "sampling_params": parameters})
        try:
            connection.request("POST", "/generate", body, self.headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status != http.client.OK:
                raise AskError(f"HTTP {response.status}")
            return str(json.loads(answer)["text"])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            connection.close()
            raise AskError(type(error).__name__) from error


def say(line: str) -> None:
    """At once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    """What was given, or the defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:30000")
    parser.add_argument("clients", nargs="?", type=int, default=56)
    parser.add_argument("api_key", nargs="?", default="")
    parser.add_argument("--any-text", action="store_true", help="a text that differs is counted and no error")
    return parser.parse_args()


def run(load: Load, num_clients: int) -> None:
    """Clients from now until somebody stops the load."""
    clients = [threading.Thread(target=load.run_client, args=(number,)) for number in range(num_clients)]
    for client in clients:
        client.start()
    while not load.is_stopping.wait(5):
        say(str(dict(load.counts)))
    for client in clients:
        client.join()


def main() -> int:
    """0 if answers came and none was wrong."""
    given = arguments()
    load = Load(urlsplit(given.url).netloc, given.api_key)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: load.is_stopping.set())
    try:
        load.learn()
    except AskError as failure:
        say(f"the server does not even answer undisturbed: {failure}")
        return 1
    say(f"{given.clients} clients begin: disturb it now")
    run(load, given.clients)
    say(f"{given.clients} clients, {load.counts.total()} answers: {dict(load.counts)}")
    right = {EQUAL, DIFFERENT} if given.any_text else {EQUAL}
    return 0 if load.counts and load.counts.keys() <= right else 1


if __name__ == "__main__":
    sys.exit(main())
