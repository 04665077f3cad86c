"""One request is one trace over all four services, as an OTLP collector sees it."""

import itertools
import secrets
from typing import Any

import pytest
import requests

from tests.pipeline.system import System
from tests.unit.wire.collector import Collector, ExportedSpan
from wire.messages import Stage

SPANS = ("POST /v1/chat/completions", "attempt", "tokenize", "queue", "prefill", "decode", "detokenize")
SERVICES = {
    "POST /v1/chat/completions": "millrace-gateway",
    "attempt": "millrace-gateway",
    "tokenize": "millrace-tokenizer",
    "queue": "millrace-worker",
    "prefill": "millrace-worker",
    "decode": "millrace-worker",
    "detokenize": "millrace-detokenizer",
}
OTLP_SERVER, OTLP_CONSUMER = 2, 5


def chat(system: System, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    response = requests.post(f"{system.url}/v1/chat/completions", json=body | fields, headers=headers, timeout=60)
    assert response.status_code == 200
    return {} if fields.get("stream") else response.json()


def new_context(flags: str = "01") -> tuple[str, str, dict[str, str]]:
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, parent_id, {"traceparent": f"00-{trace_id}-{parent_id}-{flags}"}


def let_spans_arrive(system: System, collector: Collector) -> None:
    """Every process exports in order, so with the spans of one more request all earlier ones have arrived."""
    trace_id, _, headers = new_context()
    chat(system, headers)
    assert len(collector.wait_for(trace_id, len(SPANS))) == len(SPANS)


def trace_of(system: System, collector: Collector, **fields: Any) -> tuple[str, dict[str, ExportedSpan], Any]:
    """One chat with an incoming traceparent: its parent id, its spans by name, its answer."""
    trace_id, parent_id, headers = new_context()
    answer = chat(system, headers, **fields)
    collector.wait_for(trace_id, len(SPANS))
    let_spans_arrive(system, collector)
    spans = collector.spans(trace_id)
    assert sorted(span.name for span in spans) == sorted(SPANS)
    return parent_id, {span.name: span for span in spans}, answer


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}], ids=["whole", "streamed", "two choices"])
def test_a_request_is_seven_spans_in_one_trace_over_four_services(
    system: System, collector: Collector, fields: dict[str, Any]
) -> None:
    parent_id, spans, _ = trace_of(system, collector, **fields)
    root, attempt = spans[SPANS[0]], spans["attempt"]
    assert {name: span.service for name, span in spans.items()} == SERVICES
    assert root.parent_id == parent_id
    assert root.kind == OTLP_SERVER
    assert attempt.parent_id == root.span_id
    hops = [spans[name] for name in SPANS[2:]]
    for hop in hops:
        assert hop.parent_id == attempt.span_id
        assert hop.kind == OTLP_CONSUMER
    assert hops[0].links == ()
    for earlier, later in itertools.pairwise(hops):
        assert later.links == (earlier.span_id,)


def test_spans_name_their_instance_and_follow_each_other(system: System, collector: Collector) -> None:
    _, spans, _ = trace_of(system, collector)
    for stage, name in zip(Stage, (SPANS[0], "tokenize", "decode", "detokenize"), strict=True):
        assert spans[name].instance_id == system.one(stage).instance_id
    root, queue, prefill, decode = (spans[name] for name in (SPANS[0], "queue", "prefill", "decode"))
    assert queue.end_ns == prefill.start_ns
    assert prefill.end_ns == decode.start_ns
    starts = [spans[name].start_ns for name in SPANS[:-1]]
    assert starts == sorted(starts)
    for span in spans.values():
        assert root.start_ns <= span.start_ns <= span.end_ns
        assert span.start_ns <= root.end_ns


def test_spans_tell_what_was_asked_and_what_it_cost(system: System, collector: Collector) -> None:
    _, spans, answer = trace_of(system, collector)
    root, attempt = spans[SPANS[0]].attributes, spans["attempt"].attributes
    assert root["http.response.status_code"] == 200
    assert root["gen_ai.request.model"] == "demo"
    assert root["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert root["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert root["gen_ai.response.finish_reasons"] == ["stop"]
    assert (attempt["attempt"], attempt["cause"]) == (1, "new")
    assert attempt["gen_ai.request.temperature"] == 0
    assert {spans[name].attributes["gen_ai.request.id"] for name in ("attempt", "tokenize", "queue", "detokenize")} == {
        answer["id"]
    }
    for name in SPANS[1:3]:
        assert spans[name].attributes["messaging.system"] == "nats"
        assert spans[name].attributes["messaging.destination.name"]
    assert spans["decode"].attributes["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]


def test_a_request_without_traceparent_begins_a_trace_of_its_own(system: System, collector: Collector) -> None:
    let_spans_arrive(system, collector)
    before = collector.trace_ids()
    chat(system, {})
    new = collector.wait_for_new_trace(before)
    assert len(collector.wait_for(new, len(SPANS))) == len(SPANS)


def test_a_trace_that_the_caller_does_not_sample_is_not_recorded(system: System, collector: Collector) -> None:
    unsampled_id, _, headers = new_context(flags="00")
    chat(system, headers)
    let_spans_arrive(system, collector)
    assert collector.spans(unsampled_id) == []
