"""Prometheus metrics of one process: the registry, the counters of the bus, and an optional page of its own."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


class BusMetrics:
    """What went wrong on the bus without harming anybody; each is counted, none is silent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.undecodable = Counter(
            "millrace_bus_undecodable_messages",
            "Messages dropped because they did not decode",
            registry=registry,
        )
        self.discarded = Counter(
            "millrace_bus_discarded_messages",
            "Messages not published because the connection was down",
            registry=registry,
        )
        self.slow_consumer = Counter(
            "millrace_bus_slow_consumer_drops",
            "Messages dropped by the client because a subscription was behind",
            registry=registry,
        )
        self.handler_errors = Counter("millrace_bus_handler_errors", "Messages whose handler raised", registry=registry)
        self.reconnects = Counter("millrace_bus_reconnects", "Times the connection came back", registry=registry)


def report_readiness(registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
    """Shows whether this instance takes work, for health checks: the page is served before the model is loaded."""
    gauge = Gauge("millrace_instance_ready", "1 while the instance takes new work", registry=registry)
    gauge.set_function(lambda: float(is_ready()))


def serve_metrics(registry: CollectorRegistry, port: int) -> None:
    """Serves the registry at `http://0.0.0.0:{port}/metrics` from a daemon thread; port 0 means off."""
    if port:
        server, _ = start_http_server(port, registry=registry)
        app = server.get_app()
        assert app is not None
        server.set_app(_plain_text(app))


def _plain_text(app: "WSGIApplication") -> "WSGIApplication":
    """Answers in the text format whatever is asked for: OpenMetrics 1.0 would rename `sglang:` to `sglang_`."""

    def answer(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        environ.pop("HTTP_ACCEPT", None)
        return app(environ, start_response)

    return answer
