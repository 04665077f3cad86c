"""The `detokenize` span, as a collector receives it."""

from msgspec.structs import replace
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from detokenizer_svc.attempts import AttemptTable
from detokenizer_svc.batch_run import BatchProcessor
from detokenizer_svc.hop_spans import HopSpans
from tests.unit.detokenizer_svc.batches import batch, finish, opened, settings
from tests.unit.detokenizer_svc.test_batch_run import ME, NOW_NS, Rig, ids, vocabulary
from tests.unit.wire.collector import ExportedSpan, running_collector
from wire.messages import Stage
from wire.telemetry import Tracing

TRACE = "0123456789abcdef0123456789abcdef"
ATTEMPT = f"00-{TRACE}-1111111111111111-01"
DECODE = f"00-{TRACE}-2222222222222222-01"


def spans_of_two_choices(traceparent: str) -> list[ExportedSpan]:
    """What is exported of an attempt with two choices, one of which a stop string ends."""
    with running_collector() as collector:
        rig = Rig()
        tracing = Tracing(collector.endpoint, 1.0, Stage.DETOKENIZER, ME.instance_id)
        rig.table = AttemptTable(HopSpans(tracing, "tiny", "mr.v1.x"))
        rig.processor = BatchProcessor(lambda: ME, vocabulary(), rig.table, rig.metrics, 1 << 20)
        both = settings(num_sequences=2, traceparent=traceparent, stop=("E",))
        streams = [replace(opened(choice + 1, 7, both, choice=choice), previous_hop=DECODE) for choice in range(2)]
        rig.run(batch([(1, 0, ids("a"))], opens=streams[:1]))
        rig.run(batch([(1, 1, ids("E")), (2, 0, ids("b"))], opens=streams[1:]))
        rig.run(batch([(2, 1, ids("c"))], finishes=[finish(0, num=2)]))
        tracing.shutdown()
        assert collector.count() == len(collector.spans(TRACE))
        return collector.spans(TRACE)


def test_all_choices_of_an_attempt_make_one_span() -> None:
    (span,) = spans_of_two_choices(ATTEMPT)
    assert (span.name, span.kind) == ("detokenize", Span.SpanKind.SPAN_KIND_CONSUMER)
    assert (span.parent_id, span.links) == ("1" * 16, ("2" * 16,))
    assert NOW_NS == span.start_ns < span.end_ns
    assert span.attributes == {
        "gen_ai.request.model": "tiny",
        "gen_ai.response.finish_reasons": ["stop", "length"],
        "gen_ai.usage.output_tokens": 4,
        "messaging.destination.name": "mr.v1.x",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.system": "nats",
        "millrace.cause": "finished",
        "gen_ai.request.id": "r",
    }


def test_a_request_without_a_trace_makes_no_span() -> None:
    assert spans_of_two_choices("") == []
