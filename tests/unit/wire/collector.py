"""An OTLP/HTTP collector in this process, for asserting on what was really exported."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True, slots=True)
class ExportedSpan:
    """One span as the collector got it; ids in hex, as in a traceparent."""

    service: str
    instance_id: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    trace_state: str
    events: tuple[tuple[str, dict[str, Any]], ...] = ()


class Collector:
    """Keeps the spans that arrive at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._spans: list[ExportedSpan] = []
        self._changed = threading.Condition()

    def add(self, request: ExportTraceServiceRequest) -> None:
        """Takes one export in."""
        with self._changed:
            self._spans.extend(_spans_of(request))
            self._changed.notify_all()

    def spans(self, trace_id: str) -> list[ExportedSpan]:
        """What has arrived of a trace, in order of start."""
        with self._changed:
            return sorted((s for s in self._spans if s.trace_id == trace_id), key=lambda span: span.start_ns)

    def wait_for(self, trace_id: str, count: int, timeout_s: float = 30.0) -> list[ExportedSpan]:
        """The spans of a trace once there are at least `count`; fewer after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: sum(s.trace_id == trace_id for s in self._spans) >= count, timeout_s)
        return self.spans(trace_id)

    def trace_ids(self) -> set[str]:
        """Of every trace that has sent a span."""
        with self._changed:
            return {span.trace_id for span in self._spans}

    def wait_for_new_trace(self, known: set[str], timeout_s: float = 30.0) -> str:
        """The id of the one trace that is not among the known ones."""
        with self._changed:
            self._changed.wait_for(lambda: any(s.trace_id not in known for s in self._spans), timeout_s)
        (new,) = self.trace_ids() - known
        return new

    def all_spans(self) -> list[ExportedSpan]:
        """Everything that has arrived."""
        with self._changed:
            return list(self._spans)

    def count(self) -> int:
        """How many spans have arrived in all."""
        with self._changed:
            return len(self._spans)


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector on a free port, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.add(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Requests are not worth a line."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[ExportedSpan]:
    for resource_spans in request.resource_spans:
        resource = {pair.key: _value(pair.value) for pair in resource_spans.resource.attributes}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield ExportedSpan(
                    service=resource["service.name"],
                    instance_id=resource["service.instance.id"],
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=tuple(link.span_id.hex() for link in span.links),
                    kind=span.kind,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes={pair.key: _value(pair.value) for pair in span.attributes},
                    trace_state=span.trace_state,
                    events=tuple(
                        (event.name, {pair.key: _value(pair.value) for pair in event.attributes})
                        for event in span.events
                    ),
                )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(part) for part in value.array_value.values]
    return getattr(value, kind) if kind else None
