"""From settings to a served model, with weights or without."""

import json
from pathlib import Path

import pytest

from gpu_worker.model_loading import load_model
from gpu_worker.settings import WorkerSettings
from tests.unit.gpu_worker.checkpoints import random_model, save
from wire.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as published, but for its tokenizer, which a worker does not need."""
    return save(random_model("qwen2"), tmp_path_factory.mktemp("published"))


def settings(folder: Path, **fields: str) -> WorkerSettings:
    return WorkerSettings(model_path=str(folder), device="cpu", max_total_tokens=256, **fields)


def test_random_weights_need_nothing_but_the_configuration(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(CheckpointError, match="safetensors"):
        load_model(settings(tmp_path))
    assert load_model(settings(tmp_path, load_format="dummy")).engine.limits.vocab_size == config["vocab_size"]


def test_nobody_takes_random_weights_for_the_published_ones(folder: Path) -> None:
    published = load_model(settings(folder)).fingerprint
    random = load_model(settings(folder, load_format="dummy")).fingerprint

    assert published != random
    assert random == load_model(settings(folder, load_format="dummy")).fingerprint, "workers of one kind are peers"


def test_workers_of_another_precision_are_no_peers(folder: Path) -> None:
    of_each = [load_model(settings(folder, dtype=dtype)).fingerprint for dtype in ("auto", "float", "float64")]

    assert of_each[0] == of_each[1], "auto is float32 on a CPU"
    assert of_each[0] != of_each[2]
