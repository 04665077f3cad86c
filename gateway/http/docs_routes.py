"""The OpenAPI document, and a page made from it that needs nothing from any other server."""

from html import escape
from typing import Any

from litestar import get
from litestar.enums import MediaType

from gateway.http.context import HttpRequest
from gateway.http.openapi import openapi_document

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .4rem 0; } code { font-weight: 600; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
"""


@get("/openapi.json", include_in_schema=False, sync_to_thread=False)
def openapi_json(request: HttpRequest) -> dict[str, Any]:
    """The document."""
    return openapi_document(request.app)


@get("/docs", include_in_schema=False, media_type=MediaType.HTML, sync_to_thread=False)
def docs(request: HttpRequest) -> str:
    """The document for reading."""
    document = openapi_document(request.app)
    schemas = document["components"]["schemas"]
    operations = (
        _operation(method, path, operation, schemas)
        for path, methods in sorted(document["paths"].items())
        for method, operation in methods.items()
    )
    title = f"<title>Millrace</title><style>{_STYLE}</style><h1>Millrace</h1>"
    return f'<!doctype html><meta charset="utf-8">{title}<p><a href="/openapi.json">openapi.json</a></p>' + "".join(
        operations
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    description = escape(operation.get("description") or "").replace("\n\n", "<p>")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = schemas.get(content.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
    rows = "".join(_row(name, field) for name, field in schema.get("properties", {}).items())
    about = f"<p>{escape(schema.get('description') or '')}</p><table>{rows}</table>" if rows else ""
    answers = "".join(
        f"<tr><td><code>{status}</code></td><td>{escape(answer.get('description', ''))}</td></tr>"
        for status, answer in sorted(operation["responses"].items())
    )
    return (
        f"<details><summary>{escape(method.upper())} <code>{escape(path)}</code></summary><p>{description}</p>"
        f"{about}<table>{answers}</table></details>"
    )


def _row(name: str, field: dict[str, Any]) -> str:
    kinds = [field, *field.get("anyOf", [])]
    names = [str(kind["type"]) for kind in kinds if kind.get("type") not in (None, "null")]
    about = field.get("description") or " or ".join(names) or "any"
    return f"<tr><td><code>{escape(name)}</code></td><td>{escape(about)}</td></tr>"
