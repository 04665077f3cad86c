"""Keeps a server busy and counts what goes wrong: run it beside a rolling restart, and end it with Ctrl-C or
SIGTERM.

Usage: steady-load.py [URL [CLIENTS [API_KEY]]]. Needs nothing but Python. Each client asks again as soon as it has an
answer, on the same connection while that lasts. An answer that differs from the first one to the same question is
counted too; only with MILLRACE_DTYPE=float64 is the company in a batch sure to change nothing.
"""

import collections
import http.client
import json
import signal
import sys
import threading
from urllib.parse import urlsplit

QUESTIONS = [f"{number}: The capital of" for number in range(12)]


class Load:
    """What the clients share."""

    def __init__(self, address: str, api_key: str) -> None:
        self.address = address
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
        self.counts: collections.Counter[str] = collections.Counter()
        self.answers: dict[str, str] = {}
        self.is_stopping = threading.Event()
        self.lock = threading.Lock()

    def run_client(self, number: int) -> None:
        """One client, until the end."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        place = number
        while not self.is_stopping.is_set():
            question = QUESTIONS[place % len(QUESTIONS)]
            place += 1
            outcome = self._ask(connection, question)
            with self.lock:
                self.counts[outcome] += 1

    def _ask(self, connection: http.client.HTTPConnection, question: str) -> str:
        parameters = {"max_new_tokens": 32, "temperature": 0, "ignore_eos": True}
        try:
            connection.request(
                "POST", "/generate", json.dumps({"text": question, "sampling_params": parameters}), self.headers
            )
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"failed: {type(error).__name__}"
        if response.status != http.client.OK:
            return f"failed: HTTP {response.status}"
        text = json.loads(body)["text"]
        with self.lock:
            return "equal" if self.answers.setdefault(question, text) == text else "different"


def main() -> int:
    """0 if nothing failed."""
    defaults = ["http://127.0.0.1:30000", "56", ""]
    url, num_clients, api_key = sys.argv[1:] + defaults[len(sys.argv) - 1 :]
    load = Load(urlsplit(url).netloc, api_key)
    clients = [threading.Thread(target=load.run_client, args=(number,)) for number in range(int(num_clients))]
    for client in clients:
        client.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: load.is_stopping.set())
    while not load.is_stopping.wait(5):
        sys.stdout.write(f"{dict(load.counts)}\n")
        sys.stdout.flush()
    for client in clients:
        client.join()
    num_failed = sum(count for outcome, count in load.counts.items() if outcome.startswith("failed"))
    sys.stdout.write(f"{num_clients} clients, {load.counts.total()} answers: {dict(load.counts)}\n")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
