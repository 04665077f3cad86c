"""The system that most tests share."""

from collections.abc import Iterator

import openai
import pytest

from tests.pipeline.system import System, running_system


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One instance of every stage, serving the demo model in float32."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture
def client(system: System) -> Iterator[openai.Client]:
    """OpenAI's own client."""
    with openai.Client(base_url=f"{system.url}/v1", api_key="None", max_retries=0, timeout=120) as connected:
        yield connected
