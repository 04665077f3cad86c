"""The `detokenize` span: one per attempt, from its first batch to the end of its last sequence."""

import time

from detokenizer_svc.attempts import Attempt
from wire.messages import StreamOpen
from wire.telemetry import Tracing, hop_attributes


class HopSpans:
    """Makes the span of each attempt that is part of a trace; none with tracing off."""

    def __init__(self, tracing: Tracing, served_model_name: str, subject: str) -> None:
        """`subject` is where the batches come in."""
        self._tracing = tracing
        self._attributes = hop_attributes(served_model_name, subject)

    def on_opened(self, attempt: Attempt, opened: StreamOpen, now_ns: int) -> None:
        """Begins the span, linked to the hop before."""
        settings = attempt.settings
        if not self._tracing.is_enabled or not settings.traceparent:
            return
        attempt.span = self._tracing.start(
            "detokenize",
            now_ns,
            parent=settings.traceparent,
            tracestate=settings.tracestate,
            previous_hop=opened.previous_hop,
            attributes={**self._attributes, "gen_ai.request.id": settings.request_id},
        )

    def on_over(self, attempt: Attempt, cause: str) -> None:
        """Ends the span with what came of the attempt."""
        if not attempt.span.is_recording():
            return
        attempt.span.set_attribute("gen_ai.usage.output_tokens", attempt.num_output_tokens)
        attempt.span.set_attribute("millrace.cause", cause)
        if attempt.finish_reasons:
            attempt.span.set_attribute("gen_ai.response.finish_reasons", attempt.finish_reasons)
        attempt.span.end(end_time=time.time_ns())
