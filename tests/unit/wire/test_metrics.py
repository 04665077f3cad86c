"""The metrics that every process has."""

from prometheus_client import CollectorRegistry, generate_latest

from wire.metrics import report_readiness


def test_readiness_is_that_of_the_moment_of_the_scrape() -> None:
    registry = CollectorRegistry()
    is_ready = False
    report_readiness(registry, lambda: is_ready)
    assert b"\nmillrace_instance_ready 0.0\n" in generate_latest(registry)
    is_ready = True
    assert b"\nmillrace_instance_ready 1.0\n" in generate_latest(registry)
