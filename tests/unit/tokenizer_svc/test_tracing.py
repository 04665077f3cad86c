"""The `tokenize` span of a request's trace, as a collector receives it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import SimpleQueue

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.unit.tokenizer_svc.jobs import MODEL_NAME, job
from tests.unit.tokenizer_svc.scene import MODEL_KEY, QUEUED, playing
from tokenizer_svc.served_model import ServedModel
from wire import subjects
from wire.columns import count_u32
from wire.messages import Failed, GenerateJob, Stage, TextPrompt

TRACE_ID, ATTEMPT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{ATTEMPT_ID}-01"
HEADERS = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}


class Collector(HTTPServer):
    """Takes OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: SimpleQueue[Span] = SimpleQueue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        export = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Collector)
        for resource_spans in export.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    self.server.spans.put(span)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_the_hop_is_a_child_of_the_attempt(nats_url: str, model: ServedModel, collector: Collector) -> None:
    async with playing(nats_url, model, otlp_endpoint=collector.url) as scene:
        await scene.send_raw(job(7, gateway=scene.gateway.peer), HEADERS)
        generate = await scene.worker.inbox.wait_for(GenerateJob)
        delivered = scene.worker.inbox.deliveries[0].headers
        subject = subjects.data(MODEL_KEY, Stage.TOKENIZER, scene.instance_id)
    span = collector.spans.get(timeout=10)
    assert (span.name, span.kind) == ("tokenize", Span.SPAN_KIND_CONSUMER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, ATTEMPT_ID)
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    values = {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
    assert values["gen_ai.request.model"] == MODEL_NAME
    assert values["gen_ai.usage.input_tokens"] == count_u32(model.encode(TextPrompt("the capital")))
    assert values["messaging.destination.name"] == subject
    assert generate.previous_hop == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    assert (generate.stream.traceparent, generate.stream.tracestate) == (TRACEPARENT, "vendor=1")
    assert delivered["traceparent"] == TRACEPARENT
    assert collector.spans.empty()


async def test_a_refused_request_marks_its_span(nats_url: str, model: ServedModel, collector: Collector) -> None:
    async with playing(nats_url, model, otlp_endpoint=collector.url) as scene:
        await scene.send_raw(job(7, QUEUED, gateway=scene.gateway.peer), HEADERS)
        await scene.gateway.inbox.wait_for(Failed)
    span = collector.spans.get(timeout=10)
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert "longer than the model's context length" in span.status.message
