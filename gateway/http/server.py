"""Runs an ASGI app with uvicorn inside this process's event loop. Signals stay with the lifecycle."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import uvicorn
from litestar.types import ASGIApp

from gateway.settings import GatewaySettings
from wire.background import BackgroundTasks

log = logging.getLogger(__name__)

_BACKLOG = 2048
_LAST_SECONDS = 3
_PROBED = frozenset({"/health", "/ready", "/metrics"})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """One listening socket and the server on it."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._socket = _listen(settings)
        self.url = _url(self._socket)
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=log.isEnabledFor(logging.INFO),
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.access").addFilter(_is_no_probe)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    def start(self, background: BackgroundTasks) -> None:
        """Begins to accept."""
        self._task = background.start(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Accepts no more, and returns when every connection has ended or had its seconds to do so."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})
        self._socket.close()


def _is_no_probe(record: logging.LogRecord) -> bool:
    """Keeps what load balancers and scrapers ask every second out of the access log, unless it went wrong."""
    *_, path, _, status = record.args if isinstance(record.args, tuple) else ("", "", 0)
    return path not in _PROBED or status != HTTPStatus.OK


def _listen(settings: GatewaySettings) -> socket.socket:
    if settings.listen_fd is not None:
        listener = socket.socket(fileno=settings.listen_fd)
    else:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it: the kernel drops a client that acknowledges nothing, or takes nothing.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.client_timeout * 1000))
    listener.setblocking(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
