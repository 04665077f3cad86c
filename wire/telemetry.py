"""Spans of one trace across all hops, made once per request and hop from timestamps, never per token.

Follows W3C Trace Context for propagation and the OpenTelemetry GenAI and messaging conventions for attributes.
Contexts cross processes as `traceparent` strings; an empty string means that there is none.
"""

from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from wire.messages import Stage

_EXPORT_INTERVAL_MS = 500
_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Makes this process's spans. Without an endpoint it makes none and costs nothing."""

    def __init__(self, endpoint: str, sample_ratio: float, stage: Stage, instance_id: str) -> None:
        self._provider: TracerProvider | None = None
        if endpoint:
            self._provider = _provider(endpoint, sample_ratio, stage, instance_id)
        provider = self._provider or trace.NoOpTracerProvider()
        self._tracer = provider.get_tracer("millrace")

    @property
    def is_enabled(self) -> bool:
        """Whether spans go anywhere."""
        return self._provider is not None

    def start(
        self,
        name: str,
        start_ns: int,
        *,
        parent: str = "",
        tracestate: str = "",
        previous_hop: str = "",
        kind: SpanKind = SpanKind.CONSUMER,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """A span that began at `start_ns` (Unix nanoseconds); the caller ends it with `end(end_time=…)`.

        `parent` and `previous_hop` are traceparents; the latter becomes a link. With tracing off, or for a trace that
        is not sampled, the span records nothing and still carries the parent's context on.
        """
        context = _PROPAGATOR.extract({"traceparent": parent, "tracestate": tracestate}) if parent else None
        return self._tracer.start_span(
            name, context, kind=kind, attributes=attributes, links=_links(previous_hop), start_time=start_ns
        )

    def shutdown(self) -> None:
        """Exports what is pending; waits for the collector a bounded time."""
        if self._provider is not None:
            self._provider.shutdown()


def hop_attributes(served_model_name: str, subject: str) -> dict[str, AttributeValue]:
    """What every hop span tells alike: which model, and on which NATS subject its work came in."""
    return {
        "gen_ai.request.model": served_model_name,
        "messaging.system": "nats",
        "messaging.destination.name": subject,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }


def traceparent_of(span: Span) -> str:
    """The span's context in W3C form; empty if it has none."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def tracestate_of(span: Span) -> str:
    """The vendor part of the context, passed on unread."""
    return span.get_span_context().trace_state.to_header()


def _links(previous_hop: str) -> Sequence[Link]:
    if not previous_hop:
        return ()
    context: SpanContext = trace.get_current_span(_PROPAGATOR.extract({"traceparent": previous_hop})).get_span_context()
    return (Link(context),) if context.is_valid else ()


def _provider(endpoint: str, sample_ratio: float, stage: Stage, instance_id: str) -> TracerProvider:
    resource = Resource.create(
        {
            "service.name": f"millrace-{stage.value}",
            "service.namespace": "millrace",
            "service.instance.id": instance_id,
        }
    )
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_INTERVAL_MS))
    return provider


NO_SPAN: Span = NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)
