"""The gateway's spans, as a collector gets them."""

from collections.abc import Iterator

import pytest

from tests.unit.gateway.conftest import MakeScene
from tests.unit.gateway.scripted import ScriptedPipeline, answer_all, begin
from tests.unit.wire.collector import Collector, running_collector
from wire.columns import pack_u64
from wire.messages import Released, TokenizeJob

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
INCOMING = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Listening while the test runs."""
    with running_collector() as running:
        yield running


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

    spans = collector.all_spans()
    root = next(span for span in spans if span.name == "POST /v1/chat/completions")
    first, second = sorted(
        (span for span in spans if span.name == "attempt"), key=lambda span: span.attributes["attempt"]
    )
    assert {span.trace_id for span in spans} == {TRACE_ID}
    assert root.parent_id == "b7ad6b7169203331"
    assert first.parent_id == second.parent_id == root.span_id
    assert (first.attributes["cause"], second.attributes["cause"]) == ("new", "released")
    assert first.attributes["gen_ai.request.temperature"] == 0.5
    assert root.attributes["gen_ai.usage.output_tokens"] == 3
    assert root.attributes["http.response.status_code"] == 200
    assert len(spans) == 3
    ((name, resume),) = root.events
    assert name == "resume"
    assert (resume["cause"], resume["attempt"]) == ("released", 1)
    assert resume["num_tokens_delivered"] == 1
    assert resume["worker"] == scene.pipeline.worker.node.instance.instance_id
    for headers, span in zip(scene.pipeline.headers, (first, second), strict=True):
        assert headers["traceparent"] == f"00-{TRACE_ID}-{span.span_id}-01"


async def test_without_an_endpoint_jobs_carry_no_trace(make_scene: MakeScene) -> None:
    scene = await make_scene()
    await scene.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": INCOMING})

    assert scene.pipeline.headers == [{}]
