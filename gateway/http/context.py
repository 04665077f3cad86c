"""What route handlers work with, and what every generating route does with it."""

from dataclasses import dataclass
from typing import Any

from litestar import Request

from gateway.admission import Admission
from gateway.asking import Asking
from gateway.errors import RequestError
from gateway.http.response import CallResponse
from gateway.http.writer import CallWriter
from gateway.inflight.generation import Call
from gateway.inflight.pipeline import Pipeline
from gateway.inflight.spans import CallSpans
from gateway.metrics import GatewayMetrics
from gateway.rendering.answer import Answer
from gateway.settings import GatewaySettings
from wire.node import Node

HttpRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of this process, as the composition root has built them."""

    node: Node
    settings: GatewaySettings
    metrics: GatewayMetrics
    pipeline: Pipeline
    admission: Admission
    asking: Asking
    spans: CallSpans

    async def read_body(self, request: HttpRequest) -> bytes:
        """The body; raises a 413 that names size and limit."""
        limit = self.settings.max_request_bytes
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise _body_too_large(int(announced), limit)
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _body_too_large(size, limit)
            parts.append(part)
        return b"".join(parts)

    def respond(self, request: HttpRequest, call: Call, answer: Answer) -> CallResponse:
        """Starts the call's span; its requests are sent when the response is written."""
        call.span = self.spans.start(f"{request.method} {request.url.path}", call, request.headers)
        request_id = call.generations[0].input.request_id
        return CallResponse(CallWriter(call, answer, request_id, self.pipeline, self.spans))


def _body_too_large(size: int, limit: int) -> RequestError:
    return RequestError(413, f"The body has {size} bytes, the limit is {limit} bytes.", code="too_large")
