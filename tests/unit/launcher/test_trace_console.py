"""A request's way through the stages is shown once its trace is complete."""

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanKind

from launcher.trace_console import TraceConsole
from launcher.waterfall import HopSpan, bar, render
from wire.messages import Stage
from wire.telemetry import Tracing, traceparent_of

ROOT_ATTRIBUTES = {
    "http.response.status_code": 200,
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 2000,
}
MS = 10**6
BEGIN = 1_800_000_000 * 10**9


class Shown(io.StringIO):
    """A stream that tells when a trace has been printed, which ends in an empty line."""

    def __init__(self) -> None:
        super().__init__()
        self.is_complete = asyncio.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().endswith("\n\n"):
            self.is_complete.set()
        return written


def trace_a_request(endpoint: str, name: str = "POST /generate", *, has_hops: bool = True) -> None:
    """Spans of two processes, exported by the code that the stages run."""
    gateway = Tracing(endpoint, 1.0, Stage.GATEWAY, "gateway-1")
    root = gateway.start(name, BEGIN, kind=SpanKind.SERVER, attributes=ROOT_ATTRIBUTES)
    if has_hops:
        worker = Tracing(endpoint, 1.0, Stage.WORKER, "worker-1")
        decode = worker.start("decode", BEGIN + 40 * MS, parent=traceparent_of(root))
        decode.set_attribute("gen_ai.response.finish_reasons", ["stop"])
        decode.end(BEGIN + 90 * MS)
        worker.shutdown()
    root.end(BEGIN + 100 * MS)
    gateway.shutdown()


async def test_a_trace_of_two_processes_is_one_waterfall() -> None:
    shown = Shown()
    async with TraceConsole(shown, settle_s=0.001) as console:
        await asyncio.to_thread(trace_a_request, console.endpoint)
        await shown.is_complete.wait()
    title, root, decode = shown.getvalue().rstrip("\n").splitlines()
    assert title.startswith("trace ")
    assert title.endswith(": 100.0 ms, 1000 prompt tokens, 2000 output tokens, finish stop, HTTP 200")
    assert root.split() == ["POST", "/generate", "gateway-1", root.split()[3], "+0.0", "ms", "100.0", "ms"]
    assert decode.split() == ["decode", "worker-1", decode.split()[2], "+40.0", "ms", "50.0", "ms"]
    assert decode.startswith("  decode")


async def test_what_has_not_settled_is_shown_at_the_end() -> None:
    shown = io.StringIO()
    async with TraceConsole(shown, settle_s=3600) as console:
        await asyncio.to_thread(trace_a_request, console.endpoint)
    assert "decode" in shown.getvalue()


async def test_room_is_made_before_a_trace_is_shown() -> None:
    shown = io.StringIO()
    async with TraceConsole(shown, settle_s=3600, make_room=lambda: print("room", file=shown)) as console:
        await asyncio.to_thread(trace_a_request, console.endpoint)
    assert shown.getvalue().startswith("room\ntrace ")


async def test_a_request_that_never_left_the_gateway_is_not_shown() -> None:
    shown = io.StringIO()
    async with TraceConsole(shown, settle_s=3600) as console:
        await asyncio.to_thread(trace_a_request, console.endpoint, "GET /health", has_hops=False)
    assert shown.getvalue() == ""


async def test_spans_are_passed_on_to_another_collector() -> None:
    with collector() as (endpoint, bodies):
        async with TraceConsole(io.StringIO(), forward_to=endpoint) as console:
            await asyncio.to_thread(trace_a_request, console.endpoint)
    names = [
        span.name
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(names) == ["POST /generate", "decode"]


async def test_a_collector_that_is_away_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    shown = Shown()
    async with TraceConsole(shown, forward_to="http://127.0.0.1:9", settle_s=0.001) as console:
        await asyncio.to_thread(trace_a_request, console.endpoint)
        await shown.is_complete.wait()
    assert [record.message for record in caplog.records if "takes no spans" in record.message]


async def test_what_is_no_export_is_refused() -> None:
    async with TraceConsole(io.StringIO()) as console, httpx.AsyncClient() as client:
        assert (await client.post(console.endpoint + "/v1/traces", content=b"\xff\xff")).status_code == 400


@pytest.mark.parametrize(
    ("offset", "share", "expected"),
    [(0, 1, "████"), (0.5, 0.5, "  ██"), (0, 0.125, "▌"), (0.999, 0, "   ▏"), (0.75, 1, "   █")],
)
def test_a_bar_is_as_long_as_its_share(offset: float, share: float, expected: str) -> None:
    assert bar(offset, share, 4) == expected


def test_a_hop_whose_parent_never_came_is_shown_all_the_same() -> None:
    orphan = HopSpan("t", "b", "a", "decode", "worker", "worker-1", 0, 10, is_root=False, is_error=False)
    table = render([orphan], 80).renderables[1]
    assert getattr(table, "row_count") == 1  # noqa: B009


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()
