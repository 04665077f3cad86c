"""The gateway's two spans: one per HTTP call, and below it one per attempt.

A killed instance never exports its own spans, so the attempt's is made here.
"""

import time
from collections.abc import Mapping

from opentelemetry.trace import Span, SpanKind, StatusCode

from gateway.inflight.generation import Attempt, Call, Cause, Generation
from wire.telemetry import NO_SPAN, Tracing, traceparent_of, tracestate_of


class CallSpans:
    """The span of an HTTP call, named by method and route."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def start(self, name: str, call: Call, headers: Mapping[str, str]) -> Span:
        """Begins when the call was received, as the child of an incoming `traceparent`."""
        if not self._tracing.is_enabled:
            return NO_SPAN
        method, _, route = name.partition(" ")
        attributes = {
            "http.request.method": method,
            "http.route": route,
            "gen_ai.request.model": call.model,
            "gen_ai.operation.name": "chat" if "chat" in route else "text_completion",
        }
        return self._tracing.start(
            name,
            call.received_ns,
            parent=headers.get("traceparent", ""),
            tracestate=headers.get("tracestate", ""),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )

    def end(self, call: Call, status: int) -> None:
        """Ends the call's span with what it came to."""
        span = call.span
        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("gen_ai.usage.input_tokens", sum(g.num_prompt_tokens for g in call.generations))
            span.set_attribute("gen_ai.usage.output_tokens", _num_output_tokens(call.generations))
            span.set_attribute("gen_ai.response.finish_reasons", _finish_reasons(call.generations))
            if status >= 500 or call.error:
                span.set_status(StatusCode.ERROR, str(call.error or ""))
            span.end()


class AttemptSpans:
    """The span of an attempt: the parent of every hop's."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def start(self, generation: Generation, attempt: Attempt) -> Span:
        """Begins now."""
        if not self._tracing.is_enabled:
            return NO_SPAN
        sampling = generation.input.sampling
        attributes: dict[str, str | int | float] = {
            "attempt": attempt.number,
            "cause": attempt.cause.value,
            "gen_ai.request.model": generation.call.model,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.choice.count": sampling.n,
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.destination.name": attempt.tokenizer_id or attempt.worker_id,
            "gen_ai.request.id": generation.input.request_id,
        }
        if sampling.max_new_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = sampling.max_new_tokens
        parent = generation.call.span
        return self._tracing.start(
            "attempt",
            time.time_ns(),
            parent=traceparent_of(parent),
            tracestate=tracestate_of(parent),
            kind=SpanKind.PRODUCER,
            attributes=attributes,
        )

    def end(self, generation: Generation, attempt: Attempt, cause: Cause | None = None) -> None:
        """Ends with the cause of the next attempt, or with the result."""
        span = attempt.span
        if not span.is_recording():
            return
        if cause is not None:
            event: dict[str, str | int] = {
                "cause": cause.value,
                "attempt": attempt.number,
                "worker": attempt.worker_id,
                "detokenizer": attempt.detokenizer_id,
                "num_tokens_delivered": generation.num_received,
            }
            generation.call.span.add_event("resume", event)
            span.set_status(StatusCode.ERROR, cause.value)
        elif generation.error is not None:
            span.set_status(StatusCode.ERROR, generation.error.message)
        else:
            span.set_attribute("gen_ai.usage.input_tokens", generation.num_prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", _num_output_tokens([generation]))
            span.set_attribute("gen_ai.response.finish_reasons", _finish_reasons([generation]))
        span.end()


def _num_output_tokens(generations: list[Generation]) -> int:
    return sum(choice.num_tokens for generation in generations for choice in generation.choices)


def _finish_reasons(generations: list[Generation]) -> list[str]:
    choices = (choice for generation in generations for choice in generation.choices)
    return [choice.finish.reason.value for choice in choices if choice.finish]
