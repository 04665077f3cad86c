"""The worker's three hops of a request's trace: queue, prefill, decode. One span each, made from timestamps."""

from collections.abc import Mapping

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from wire.messages import GenerateJob
from wire.telemetry import NO_SPAN, Tracing, traceparent_of


class HopSpans:
    """The spans of one attempt: each has the attempt's span as parent and links to the hop before."""

    def __init__(
        self, tracing: Tracing, job: GenerateJob, received_ns: int, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """`attributes` are those of every hop of this instance."""
        self._tracing = tracing
        self._shared = attributes
        self._job = job
        self._previous_hop = job.previous_hop
        self._is_prefilled = False
        self._open: Span = NO_SPAN
        if tracing.is_enabled:
            self._open = self._start("queue", received_ns, self._attributes())

    @property
    def traceparent(self) -> str:
        """The hop that is under way, for the detokenizer to link to."""
        return traceparent_of(self._open)

    def first_token(self, scheduled_ns: int, first_token_ns: int, cached_tokens: int) -> None:
        """The prompt is computed: closes `queue` and `prefill`, opens `decode`. Later calls change nothing."""
        if not self._tracing.is_enabled or self._is_prefilled:
            return
        self._is_prefilled = True
        self._end(scheduled_ns)
        prefill: dict[str, AttributeValue] = {
            "gen_ai.usage.input_tokens": len(self._job.prompt_ids) // 4,
            "millrace.cached_tokens": cached_tokens,
        }
        self._open = self._start("prefill", scheduled_ns, prefill)
        self._end(first_token_ns)
        self._open = self._start("decode", first_token_ns, {})

    def move(self, job: GenerateJob, now_ns: int) -> None:
        """The request goes on under another attempt: so does what is under way, as a span below that attempt's.

        Of what had ended something is sent again: that is a span too, for the caller to finish.
        """
        self._job = job
        if self._tracing.is_enabled:
            self._end(now_ns)
            self._open = self._start("decode" if self._is_prefilled else "queue", now_ns, self._attributes())

    def finish(self, reasons: list[str], num_output_tokens: int, finished_ns: int) -> None:
        """The last stream has ended, or its request was aborted: closes what is under way, if that is still open."""
        if self._open.is_recording():
            self._open.set_attribute("gen_ai.response.finish_reasons", reasons)
            self._open.set_attribute("gen_ai.usage.output_tokens", num_output_tokens)
            self._open.end(end_time=finished_ns)

    def _attributes(self) -> dict[str, AttributeValue]:
        own: dict[str, AttributeValue] = {
            "gen_ai.request.id": self._job.request_id,
            "millrace.attempt": self._job.attempt,
        }
        return {**self._shared, **own}

    def _start(self, name: str, start_ns: int, attributes: dict[str, AttributeValue]) -> Span:
        stream = self._job.stream
        return self._tracing.start(
            name,
            start_ns,
            parent=stream.traceparent,
            tracestate=stream.tracestate,
            previous_hop=self._previous_hop,
            attributes=attributes,
        )

    def _end(self, end_ns: int) -> None:
        self._previous_hop = traceparent_of(self._open)
        if self._open.is_recording():
            self._open.end(end_time=end_ns)
