"""The metrics that every process has."""

import socket
import urllib.request
from contextlib import closing

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from wire.metrics import report_readiness, serve_metrics


def test_readiness_is_that_of_the_moment_of_the_scrape() -> None:
    registry = CollectorRegistry()
    is_ready = False
    report_readiness(registry, lambda: is_ready)
    assert b"\nmillrace_instance_ready 0.0\n" in generate_latest(registry)
    is_ready = True
    assert b"\nmillrace_instance_ready 1.0\n" in generate_latest(registry)


def test_a_page_is_plain_text_even_for_who_prefers_openmetrics() -> None:
    """OpenMetrics 1.0 allows no colon in a name, and dashboards made for SGLang ask for `sglang:…`."""
    registry = CollectorRegistry()
    Gauge("sglang:num_running_reqs", "Running requests", registry=registry).set(3)
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    serve_metrics(registry, port)
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(asked) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert b"\nsglang:num_running_reqs 3.0\n" in answer.read()
