"""Lets a Litestar handler return a `CallWriter`."""

from typing import Any

from litestar import Request
from litestar.response import Response
from litestar.types import ASGIApp

from gateway.http.writer import CallWriter


class CallResponse(Response[None]):
    """A response that writes itself. Litestar routes, checks and counts it; the bytes go past its machinery."""

    def __init__(self, writer: CallWriter) -> None:
        super().__init__(None)
        self._writer = writer

    def to_asgi_response(  # type: ignore[override]  # any ASGI application does, whatever the annotation says
        self, app: Any, request: Request[Any, Any, Any], **_: Any
    ) -> ASGIApp:
        """The writer itself."""
        return self._writer
