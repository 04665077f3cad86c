"""The gateway's spans, as a collector gets them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.unit.gateway.conftest import MakeScene
from tests.unit.gateway.scripted import ScriptedPipeline, answer_all, begin
from wire.columns import pack_u64
from wire.messages import Released, TokenizeJob

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
INCOMING = f"00-{TRACE_ID}-b7ad6b7169203331-01"


class Collector:
    """An OTLP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        """Where to send to."""
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Listening while the test runs."""
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.01,))
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes as plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


async def test_a_request_is_a_server_span_with_a_span_per_attempt(make_scene: MakeScene, collector: Collector) -> None:
    async def release_once(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        await begin(pipeline, job)
        pipeline.script = answer_all
        released = Released(pipeline.worker.node.instance.peer, pack_u64([job.key]), "draining")
        await pipeline.tell(job, released)

    scene = await make_scene(common={"otlp_endpoint": collector.endpoint})
    scene.pipeline.script = release_once
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "temperature": 0.5}
    answer = await scene.post("/v1/chat/completions", body, headers={"traceparent": INCOMING})
    assert answer.status_code == 200
    await scene.service.close()

    root = next(span for span in collector.spans if span.name == "POST /v1/chat/completions")
    first, second = sorted(
        (span for span in collector.spans if span.name == "attempt"), key=lambda span: attributes(span)["attempt"]
    )
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert first.parent_span_id == second.parent_span_id == root.span_id
    assert (attributes(first)["cause"], attributes(second)["cause"]) == ("new", "released")
    assert attributes(first)["gen_ai.request.temperature"] == 0.5
    assert attributes(root)["gen_ai.usage.output_tokens"] == 3
    assert attributes(root)["http.response.status_code"] == 200
    assert len(collector.spans) == 3
    (resume,) = root.events
    assert resume.name == "resume"
    assert (attributes(resume)["cause"], attributes(resume)["attempt"]) == ("released", 1)
    assert attributes(resume)["num_tokens_delivered"] == 1
    assert attributes(resume)["worker"] == scene.pipeline.worker.node.instance.instance_id
    for headers, span in zip(scene.pipeline.headers, (first, second), strict=True):
        assert headers["traceparent"] == f"00-{TRACE_ID}-{span.span_id.hex()}-01"


async def test_without_an_endpoint_jobs_carry_no_trace(make_scene: MakeScene) -> None:
    scene = await make_scene()
    await scene.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": INCOMING})

    assert scene.pipeline.headers == [{}]
