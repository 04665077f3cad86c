"""docs/metrics.md names the metrics that the stages have: all of them, and no others."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from detokenizer_svc.hop_metrics import DetokenizerMetrics
from gateway.metrics import GatewayMetrics
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from gpu_worker.worker_metrics import WorkerMetrics
from tokenizer_svc.metrics import TokenizerMetrics
from wire.metrics import BusMetrics, report_readiness
from wire.presence import MemberTable

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def registered() -> set[str]:
    registry = CollectorRegistry()
    BusMetrics(registry)
    report_readiness(registry, lambda: True)
    GatewayMetrics(registry, "demo", MemberTable(timeout_s=2.0))
    TokenizerMetrics(registry)
    WorkerMetrics(registry).watch(SyntheticEngine(SyntheticOptions(vocab_size=8)), page_size=16)
    DetokenizerMetrics(registry).show_streams(registry, lambda: 0)
    return {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()}


def test_the_document_names_every_metric_of_every_stage() -> None:
    documented = re.findall(r"^\| `((?:millrace_|sglang:)\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(registered())
