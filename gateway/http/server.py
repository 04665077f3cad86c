"""Runs an ASGI app with uvicorn inside this process's event loop. Signals stay with the lifecycle."""

import asyncio
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus

import uvicorn
from litestar.types import ASGIApp

from gateway.http.clients import Clients
from gateway.http.connection import Connection
from gateway.metrics import GatewayMetrics
from gateway.settings import GatewaySettings
from wire.background import BackgroundTasks

log = logging.getLogger(__name__)

_BACKLOG = 2048
_LAST_SECONDS = 3
# Longer than clients keep an idle connection (httpx, and so openai: 5 s), who else may ask while it is being closed.
_KEEP_ALIVE_S = 75
_MAX_CONNECTIONS = 65_536
_OTHER_FILES = 64  # what the process has open beside its clients: the broker's connections, logs, libraries
_KERNEL_UNSENT_BYTES = 1 << 14
_NUM_ACCESS_FIELDS = 5
_PROBED = frozenset({"/health", "/ready", "/metrics"})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """One listening socket and the server on it."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self._socket = _listen(settings)
        self._is_shared = settings.listen_fd is not None
        self._grace_s = settings.drain_grace
        self._clients = Clients(settings.client_timeout, metrics, _max_connections())
        self.url = _url(self._socket)
        config = uvicorn.Config(
            app,
            http=partial(Connection, clients=self._clients),  # type: ignore[arg-type]  # called, never subclassed
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=log.isEnabledFor(logging.INFO),
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.access").addFilter(_is_no_probe)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    def start(self, background: BackgroundTasks) -> None:
        """Begins to accept."""
        self._task = background.start(self._server.serve(sockets=[self._socket]))
        background.start(self._clients.watch())

    async def drain(self) -> None:
        """Lets every client come to its end, and returns when no connection is left.

        Whoever shares the socket takes the new connections from now on. A socket of its own stays open for the grace,
        until the balancers have noticed: what is in its queue when it closes is lost.
        """
        self._clients.finish(self._grace_s)
        if not self._is_shared:
            await asyncio.sleep(self._grace_s)
        for listener in self._server.servers:
            listener.close()
        await self._clients.all_gone()

    async def stop(self) -> None:
        """Accepts no more, and returns when every connection has ended or had its seconds to do so."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})
        self._socket.close()


def _is_no_probe(record: logging.LogRecord) -> bool:
    """Keeps what load balancers and scrapers ask every second out of the access log, unless it went wrong.

    A line ends as uvicorn's own formatter ends it, which log parsers know: `200 OK`.
    """
    if not isinstance(record.args, tuple) or len(record.args) != _NUM_ACCESS_FIELDS:
        return True
    client, method, path, version, status = record.args
    record.msg = '%s - "%s %s HTTP/%s" %s'
    record.args = (client, method, path, version, _with_phrase(status))
    return path not in _PROBED or status != HTTPStatus.OK


def _with_phrase(status: object) -> str:
    known = [f"{status} {known.phrase}" for known in HTTPStatus if known == status]
    return known[0] if known else str(status)


def _listen(settings: GatewaySettings) -> socket.socket:
    if settings.listen_fd is not None:
        listener = socket.socket(fileno=settings.listen_fd)
    else:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it: the kernel drops a client that acknowledges nothing, or takes nothing.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.client_timeout * 1000))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # What a client has not read waits here, where it is seen, and not as megabytes in the kernel.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_UNSENT_BYTES)
    listener.setblocking(False)
    return listener


def _max_connections() -> int:
    """As many as the process may have files open, once it has asked for all that it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - _OTHER_FILES


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
