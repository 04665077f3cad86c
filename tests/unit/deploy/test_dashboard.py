"""The Grafana dashboard may only show what the stages really measure."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "millrace.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
_SUFFIX = re.compile(r"_(?:total|bucket|count|sum)$")


def source() -> str:
    stages = ("wire", "gateway", "tokenizer_svc", "gpu_worker", "detokenizer_svc")
    return "\n".join(file.read_text() for stage in stages for file in (ROOT / stage).rglob("*.py"))


def is_declared(name: str, code: str) -> bool:
    """As a literal; the gateway puts SGLang's prefix before some."""
    return f'"{name}"' in code or f'"{name.removeprefix("sglang:")}"' in code


def test_every_metric_of_the_dashboard_is_declared_by_a_stage() -> None:
    names = {name for query in QUERIES for name in re.findall(r"(?:millrace_|sglang:)\w+", query)}
    code = source()
    assert len(names) > 10
    assert [name for name in sorted(names) if not is_declared(_SUFFIX.sub("", name), code)] == []


def test_the_dashboard_asks_the_provisioned_source() -> None:
    provisioned = (ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "millrace.yml").read_text()
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"prometheus"}
    assert "uid: prometheus\n" in provisioned
