"""A small OTLP/HTTP collector on this machine: takes what the stages export, and passes it on if there is another."""

import gzip
import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

log = logging.getLogger(__name__)

_PATH = "/v1/traces"
_PROTOBUF = "application/x-protobuf"
_FORWARD_TIMEOUT_S = 5.0


class TraceCollector:
    """Calls `receive` for every export, from a thread of its own. `forward_to` is another collector, or empty."""

    def __init__(self, receive: Callable[[ExportTraceServiceRequest], None], forward_to: str) -> None:
        self._server = _Server(receive, _Forwarder(forward_to) if forward_to else None)
        self._thread = threading.Thread(target=self._server.serve_forever, name="trace-collector")

    @property
    def endpoint(self) -> str:
        """What the stages take as `--otlp-endpoint`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def close(self) -> None:
        """Ends the server; an export in progress is completed."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Forwarder:
    """Sends the bytes on as they came. A collector that is away costs one warning, and nothing else."""

    def __init__(self, endpoint: str) -> None:
        self._url = endpoint.rstrip("/") + _PATH
        self._is_failing = False

    def send(self, body: bytes, headers: dict[str, str]) -> None:
        try:
            httpx.post(self._url, content=body, headers=headers, timeout=_FORWARD_TIMEOUT_S).raise_for_status()
        except httpx.HTTPError as error:
            if not self._is_failing:
                log.warning("the collector at %s takes no spans: %s", self._url, error)
            self._is_failing = True
        else:
            self._is_failing = False


class _Server(ThreadingHTTPServer):
    # Closing waits for every connection; HTTP/1.0 has one export in each, so that none stays open idle.
    daemon_threads = False

    def __init__(self, receive: Callable[[ExportTraceServiceRequest], None], forwarder: _Forwarder | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.receive = receive
        self.forwarder = forwarder


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:  # the name is http.server's
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding", "")
        try:
            export = ExportTraceServiceRequest.FromString(gzip.decompress(body) if encoding == "gzip" else body)
        except (DecodeError, OSError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error).encode())
            return
        self._answer(HTTPStatus.OK, ExportTraceServiceResponse().SerializeToString())
        self.server.receive(export)
        if self.server.forwarder is not None:
            headers = {"Content-Type": _PROTOBUF} | ({"Content-Encoding": encoding} if encoding else {})
            self.server.forwarder.send(body, headers)

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        log.debug("collector: " + format, *args)  # noqa: G003
