"""What happens around every route: the API key, the counters, and the form of errors."""

import logging
from typing import Any

from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import RequestError, body_of
from gateway.http.api_keys import ApiKeys
from gateway.http.context import HttpRequest
from gateway.metrics import GatewayMetrics

log = logging.getLogger(__name__)

_OPEN_PATHS = ("/health", "/ready", "/metrics")


class ApiKeyGuard:
    """Asks for a key as a bearer token, except for probes and preflights."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def __call__(self, request: HttpRequest) -> Response[dict[str, str]] | None:
        """A 401, or None to go on."""
        if self._keys.is_open or request.method == "OPTIONS" or request.url.path.startswith(_OPEN_PATHS):
            return None
        if self._keys.accepts(request.headers.get("authorization", "").encode("latin-1")):
            return None
        headers = {"WWW-Authenticate": "Bearer"}
        return Response({"error": "Unauthorized"}, status_code=401, headers=headers, media_type=MediaType.JSON)


class HttpCounters:
    """Counts requests and responses by route."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watches the first message of the response."""
        endpoint, method = str(scope["path_template"]), str(scope["method"])  # type: ignore[typeddict-item]
        self._metrics.count_http_request(endpoint, method)

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_http_response(endpoint, method, message["status"])
            await send(message)

        await self._app(scope, receive, count_and_send)


def answer_request_error(_: HttpRequest, error: RequestError) -> Response[dict[str, Any]]:
    """Our own errors."""
    return Response(body_of(error), status_code=error.status, headers=dict(error.headers), media_type=MediaType.JSON)


def answer_http_error(request: HttpRequest, error: HTTPException) -> Response[dict[str, Any]]:
    """Litestar's errors: no such route, a wrong method, a bad query parameter."""
    return answer_request_error(request, RequestError(error.status_code, error.detail, headers=error.headers or {}))


def answer_bug(request: HttpRequest, error: Exception) -> Response[dict[str, Any]]:
    """The one place that catches everything: the client gets its terminal message, the log gets the trace."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer_request_error(request, RequestError(500, "Internal error.", code="internal_error"))
