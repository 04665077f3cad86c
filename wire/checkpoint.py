"""Where a model lies and what it is: from `--model-path` (a folder, a hub name, `demo`) to config and fingerprint."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO = "demo"
_TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
_WEIGHT_FILES = ("*.safetensors",)
_FINGERPRINTED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_SAMPLE_BYTES = 1 << 16


class CheckpointError(ValueError):
    """The model path leads to nothing that can be served; the message says where it looked."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, in the layout that Hugging Face publishes."""

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]

    @property
    def context_length(self) -> int:
        """The longest sequence that the config allows, prompt and output together."""
        return int(self.config.get("max_position_embeddings", 2048))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding; ids are below it."""
        return int(self.config["vocab_size"])

    def fingerprint(self) -> str:
        """A hash of weights, config and tokenizer: equal on two machines exactly when they serve the same model.

        Of each weight file it takes the size, the header and samples of the data: hashing 15 GB takes a minute.
        """
        digest = hashlib.blake2s(digest_size=8)
        for name in _FINGERPRINTED:
            file = self.path / name
            digest.update(file.read_bytes() if file.exists() else b"")
        for file in sorted(self.path.glob("*.safetensors")):
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
            _sample(file, digest)
        return digest.hexdigest()


def resolve(model_path: str, *, revision: str = "", with_weights: bool = True) -> Checkpoint:
    """The checkpoint behind `model_path`, downloaded from the hub if it is neither a folder nor `demo`.

    Raises `CheckpointError` for a folder without config.json or a name that the hub does not know.
    """
    path = _demo_path() if model_path == DEMO else Path(model_path).expanduser()
    if not path.is_dir() and model_path != DEMO:
        path = _download(model_path, revision, with_weights)
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path} holds no config.json: not a model in Hugging Face layout")
    return Checkpoint(path, _json(path / "config.json"), _json(path / "generation_config.json"))


def _demo_path() -> Path:
    # By name and not by import: the demo model is the launcher's package data, and `wire` imports nothing of ours.
    spec = importlib.util.find_spec("launcher")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError("the demo model is not installed: it is package data of `launcher`")
    return Path(spec.submodule_search_locations[0]) / "demo" / "model"


def _download(name: str, revision: str, with_weights: bool) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # slow to import, and only a hub name needs it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    patterns = _TOKENIZER_FILES + (_WEIGHT_FILES if with_weights else ())
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{name!r} is neither a folder nor a model that the hub gives: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object")
    return content


def _sample(file: Path, digest: "hashlib.blake2s") -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        for offset in sorted({0, max(0, size // 2), max(0, size - _SAMPLE_BYTES)}):
            stream.seek(offset)
            digest.update(stream.read(_SAMPLE_BYTES))
