"""What the tests of the tokenizer share: a model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.models import write_model
from tests.unit.tokenizer_svc.scene import Scene, playing
from tokenizer_svc.served_model import ServedModel
from tokenizer_svc.settings import TokenizerSettings


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template and a context of 64 tokens."""
    return write_model(tmp_path_factory.mktemp("models") / "chat", generation_config={"temperature": 0.7, "top_k": 20})


@pytest.fixture(scope="session")
def model(model_folder: Path) -> ServedModel:
    return ServedModel.load(TokenizerSettings(model_path=str(model_folder)))


@pytest.fixture
async def scene(nats_url: str, model: ServedModel) -> AsyncIterator[Scene]:
    async with playing(nats_url, model) as scene:
        yield scene
