"""Checkpoints that several tests share."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.unit.gpu_worker.checkpoints import random_model, save


@pytest.fixture(scope="session")
def qwen2() -> PreTrainedModel:
    return random_model("qwen2")


@pytest.fixture(scope="session")
def qwen2_path(qwen2: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(qwen2, tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads that share few cores wait for each other far longer than these small models compute."""
    torch.set_num_threads(1)
