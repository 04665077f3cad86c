"""The `tokenize` hop of a request's trace."""

import time

from opentelemetry.trace import Span, StatusCode

from wire.bus import Delivery
from wire.messages import TokenizeJob
from wire.telemetry import NO_SPAN, Tracing, hop_attributes

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"


def trace_headers(delivery: Delivery) -> dict[str, str]:
    """The trace context that came with a message, to be sent on."""
    return {name: delivery.headers[name] for name in (TRACEPARENT, TRACESTATE) if name in delivery.headers}


class TokenizeSpans:
    """Makes one span per attempt, child of the gateway's attempt span. Without tracing it makes none."""

    def __init__(self, tracing: Tracing, served_model_name: str, subject: str) -> None:
        self._tracing = tracing
        self._attributes = hop_attributes(served_model_name, subject)

    def start(self, job: TokenizeJob, headers: dict[str, str]) -> Span:
        """The span of an attempt that has just come."""
        if not self._tracing.is_enabled:
            return NO_SPAN
        return self._tracing.start(
            "tokenize",
            time.time_ns(),
            parent=headers.get(TRACEPARENT, ""),
            tracestate=headers.get(TRACESTATE, ""),
            attributes={**self._attributes, "gen_ai.request.id": job.request_id, "millrace.attempt": job.attempt},
        )


def mark_failed(span: Span, code: str, message: str) -> None:
    """Notes on the span why the attempt went no further."""
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR, message)
