"""The system that most tests share."""

from collections.abc import Iterator

import openai
import pytest

from tests.pipeline.system import System, running_system
from tests.unit.wire.collector import Collector, running_collector


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the shared system sends its spans."""
    with running_collector() as running:
        yield running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[System]:
    """One instance of every stage, serving the demo model in float32, with tracing."""
    folder = tmp_path_factory.mktemp("system")
    with running_system(folder, common={"otlp_endpoint": collector.endpoint}) as running:
        yield running


@pytest.fixture
def client(system: System) -> Iterator[openai.Client]:
    """OpenAI's own client."""
    with openai.Client(base_url=f"{system.url}/v1", api_key="None", max_retries=0, timeout=120) as connected:
        yield connected
