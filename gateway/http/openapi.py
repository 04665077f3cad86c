"""The OpenAPI document: what Litestar knows of the routes, and what only we know, since our handlers decode themselves.

A handler names the struct of its body as `body`, its query parameters as `query`, the media types of its answer as
`answers`, and the statuses of its errors as `errors`.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from gateway.schemas import native, openai
from gateway.schemas.errors import ErrorBody
from gateway.schemas.unsupported import Neutral

JSON = "application/json"
EVENTS = "text/event-stream"
BODY_ERRORS = (400, 413, 503)
GENERATION_ERRORS = (400, 413, 429, 500, 503)

_REF = "#/components/schemas/{name}"
_UNAUTHORIZED = {"type": "object", "properties": {"error": {"const": "Unauthorized"}}, "required": ["error"]}
_ERRORS = {
    400: "The request is not valid or not supported; the message says why, with limit and value.",
    404: "There is no such thing.",
    413: "The request is larger than the server or its broker takes.",
    429: "The queue is full; `Retry-After` says when to try again.",
    500: "The request failed inside the server.",
    503: "A stage has no instance that takes new work, or the server is shutting down.",
}
_UNSUPPORTED: dict[type[msgspec.Struct], dict[str, Neutral]] = {
    native.GenerateRequest: native.UNSUPPORTED,
    native.NativeSampling: native.UNSUPPORTED_SAMPLING,
    openai.ChatRequest: openai.UNSUPPORTED_CHAT,
    openai.CompletionRequest: openai.UNSUPPORTED_COMPLETION,
}


@cache
def openapi_document(app: Litestar) -> dict[str, Any]:
    """The document of an app; the same object every time."""
    document = app.openapi_schema.to_schema()
    handlers = [handler for route in app.routes if isinstance(route, HTTPRoute) for handler in route.route_handlers]
    kinds = {handler.opt["body"] for handler in handlers if "body" in handler.opt}
    document["components"].setdefault("schemas", {}).update(_schemas(kinds | {native.NativeSampling, ErrorBody}))
    for handler in handlers:
        for operation in _operations(document, handler):
            _complete(operation, handler.opt)
    return document


def _schemas(kinds: set[type[msgspec.Struct]]) -> dict[str, Any]:
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    for kind, neutral in _UNSUPPORTED.items():
        for name, values in neutral.items():
            about = "Not supported: taken only with a value that has no effect."
            schemas[kind.__name__]["properties"][name] = {"description": about, "enum": list(values), "default": None}
    params = {"$ref": _REF.format(name=native.NativeSampling.__name__)}
    one_or_several = [params, {"type": "array", "items": params}, {"type": "null"}]
    schemas[native.GenerateRequest.__name__]["properties"]["sampling_params"] = {"anyOf": one_or_several}
    return schemas


def _operations(document: dict[str, Any], handler: HTTPRouteHandler) -> Iterator[dict[str, Any]]:
    for path in handler.paths:
        methods = document["paths"].get(path.replace(":path}", "}"), {})
        for method in handler.http_methods:
            if method.lower() in methods:
                yield methods[method.lower()]


def _complete(operation: dict[str, Any], known: dict[str, Any]) -> None:
    responses = operation["responses"]
    if "body" in known:
        schema = {"$ref": _REF.format(name=known["body"].__name__)}
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if "query" in known:
        operation["parameters"] = [{"in": "query", "name": name} | about for name, about in known["query"].items()]
    if "answers" in known:
        responses["200"]["content"] = {kind: {"schema": {}} for kind in known["answers"]}
    for status in known.get("errors", ()):
        content = {JSON: {"schema": {"$ref": _REF.format(name=ErrorBody.__name__)}}}
        responses[str(status)] = {"description": _ERRORS[status], "content": content}
    if 429 in known.get("errors", ()):
        responses["429"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    if known.get("needs_key", True):
        responses["401"] = {
            "description": "The API key is missing or wrong.",
            "content": {JSON: {"schema": _UNAUTHORIZED}},
        }
