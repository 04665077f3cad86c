"""Spans as a real OTLP/HTTP collector gets them."""

from opentelemetry.trace import SpanKind

from tests.unit.wire.collector import running_collector
from wire.messages import Stage
from wire.telemetry import NO_SPAN, Tracing, traceparent_of, tracestate_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE_ID}-b7ad6b7169203331-00"
OTLP_CONSUMER = 5


def test_a_hop_is_exported_with_parent_link_times_and_attributes() -> None:
    with running_collector() as collector:
        tracing = Tracing(collector.endpoint, 1.0, Stage.WORKER, "worker-1")
        assert tracing.is_enabled
        queue = tracing.start("queue", 1000, parent=PARENT, tracestate="vendor=1", attributes={"n": 2})
        queue.end(end_time=2000)
        prefill = tracing.start("prefill", 2000, parent=PARENT, previous_hop=traceparent_of(queue))
        prefill.end(end_time=2500)
        tracing.shutdown()
        first, second = collector.wait_for(TRACE_ID, 2)
    assert (first.service, first.instance_id, first.name) == ("millrace-worker", "worker-1", "queue")
    assert (first.parent_id, first.links) == ("b7ad6b7169203331", ())
    assert (first.start_ns, first.end_ns, first.kind) == (1000, 2000, OTLP_CONSUMER)
    assert first.attributes == {"n": 2}
    assert first.trace_state == "vendor=1"
    assert (second.parent_id, second.links) == ("b7ad6b7169203331", (first.span_id,))
    assert (second.start_ns, second.end_ns) == (2000, 2500)


def test_a_span_without_parent_begins_a_trace() -> None:
    with running_collector() as collector:
        tracing = Tracing(collector.endpoint, 1.0, Stage.GATEWAY, "gateway-1")
        root = tracing.start("POST /generate", 1000, kind=SpanKind.SERVER)
        root.end(end_time=2000)
        tracing.shutdown()
        (exported,) = collector.wait_for(traceparent_of(root).split("-")[1], 1)
    assert exported.parent_id == ""
    version, trace_id, span_id, flags = traceparent_of(root).split("-")
    assert (version, trace_id, span_id) == ("00", exported.trace_id, exported.span_id)
    assert int(flags, 16) & 1  # sampled; the SDK may set more flags


def test_with_a_ratio_of_zero_only_traces_that_others_sampled_are_recorded() -> None:
    with running_collector() as collector:
        tracing = Tracing(collector.endpoint, 0.0, Stage.GATEWAY, "gateway-1")
        tracing.start("new", 1000).end(end_time=2000)
        tracing.start("sampled by the caller", 1000, parent=PARENT).end(end_time=2000)
        tracing.shutdown()
        assert [span.name for span in collector.wait_for(TRACE_ID, 1)] == ["sampled by the caller"]
        assert collector.count() == 1


def test_a_trace_that_is_not_sampled_is_passed_on_and_not_recorded() -> None:
    with running_collector() as collector:
        tracing = Tracing(collector.endpoint, 1.0, Stage.GATEWAY, "gateway-1")
        span = tracing.start("attempt", 1000, parent=UNSAMPLED)
        span.end(end_time=2000)
        tracing.shutdown()
        assert collector.count() == 0
    assert traceparent_of(span).startswith(f"00-{TRACE_ID}-")
    assert traceparent_of(span).endswith("-00")


def test_without_a_collector_the_context_is_passed_on_unchanged() -> None:
    tracing = Tracing("", 1.0, Stage.GATEWAY, "gateway-1")
    span = tracing.start("attempt", 1000, parent=PARENT, tracestate="vendor=1")
    span.end(end_time=2000)
    tracing.shutdown()
    assert not tracing.is_enabled
    assert traceparent_of(span) == PARENT
    assert tracestate_of(span) == "vendor=1"


def test_without_collector_and_parent_there_is_no_context() -> None:
    span = Tracing("", 1.0, Stage.GATEWAY, "gateway-1").start("attempt", 1000)
    assert traceparent_of(span) == ""
    assert traceparent_of(NO_SPAN) == ""


def test_a_broken_traceparent_begins_a_new_trace_and_a_broken_link_is_left_out() -> None:
    with running_collector() as collector:
        tracing = Tracing(collector.endpoint, 1.0, Stage.WORKER, "worker-1")
        span = tracing.start("queue", 1000, parent="00-nonsense", previous_hop="nonsense")
        span.end(end_time=2000)
        tracing.shutdown()
        (exported,) = collector.wait_for(traceparent_of(span).split("-")[1], 1)
    assert (exported.parent_id, exported.links) == ("", ())
