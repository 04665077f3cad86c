"""From a model path to a folder, its config and its fingerprint."""

import json
from pathlib import Path

import pytest

from wire.checkpoint import Checkpoint, CheckpointError, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"vocab_size": 7, "max_position_embeddings": 64}))
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    return model


def test_a_folder_gives_its_config(folder: Path) -> None:
    checkpoint = resolve(str(folder))
    assert checkpoint.path == folder
    assert (checkpoint.vocab_size, checkpoint.context_length) == (7, 64)
    assert checkpoint.generation_config == {}


def test_a_generation_config_is_read_if_there_is_one(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.7}')
    assert resolve(str(folder)).generation_config == {"temperature": 0.7}


def test_demo_is_the_model_that_the_launcher_brings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    package = folder.parent / "launcher"
    (package / "demo").mkdir(parents=True)
    (package / "__init__.py").touch()
    folder.rename(package / "demo" / "model")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(__import__("sys").modules, "launcher", raising=False)
    assert resolve("demo").path == package / "demo" / "model"


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        resolve(str(tmp_path))


def test_a_config_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        resolve(str(folder))


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        resolve(str(folder))


def test_a_path_that_is_neither_folder_nor_hub_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a model"):
        resolve("/nowhere/at/all")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b'{"vocab_size": 8}'),
        ("tokenizer.json", b'{"a": 1}'),
        ("generation_config.json", b"{}"),
        ("model.safetensors", bytes(256) * 4096),
        ("model.safetensors", bytes(range(256)) * 4097),
        ("model-2.safetensors", b"more"),
    ],
)
def test_the_fingerprint_changes_with_weights_config_and_tokenizer(folder: Path, file: str, content: bytes) -> None:
    before = Checkpoint(folder, {}, {}).fingerprint()
    (folder / file).write_bytes(content)
    assert Checkpoint(folder, {}, {}).fingerprint() != before


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(folder: Path) -> None:
    before = resolve(str(folder)).fingerprint()
    (folder / "README.md").write_text("a card is not the model")
    moved = folder.rename(folder.with_name("moved"))
    assert resolve(str(moved)).fingerprint() == before
