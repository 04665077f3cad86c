"""Fills a decoder's parameters from safetensors files, memory-mapped, shard by shard. Reads no other format."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from gpu_worker.kernels.kernels import Kernels
from gpu_worker.models.config import ModelConfig
from gpu_worker.models.decoder import Decoder
from gpu_worker.models.weights import allocate_weights, checkpoint_targets

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# Buffers that old checkpoints carry and every implementation computes itself.
_COMPUTED_SUFFIX = "rotary_emb.inv_freq"
_RANDOM_STD = 0.02
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class CheckpointError(Exception):
    """The files do not hold the tensors that the configuration promises."""


def load_decoder(
    model_path: Path,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    context_length: int,
    kernels: Kernels,
) -> Decoder:
    """A decoder with the checkpoint's weights, cast to `dtype` on `device`."""
    weights = allocate_weights(config, device, dtype)
    targets = checkpoint_targets(config, weights)
    for path in shard_paths(model_path):
        _load_shard(path, targets, is_tied=config.ties_embeddings)
    if targets:
        raise CheckpointError(f"{model_path} lacks {len(targets)} tensors, the first is {min(targets)}.")
    return Decoder(config, weights, context_length, kernels)


def random_decoder(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, context_length: int, kernels: Kernels
) -> Decoder:
    """A decoder of the configured shape with random weights, the same every time: to measure without a checkpoint."""
    weights = allocate_weights(config, device, dtype)
    generator = torch.Generator(device).manual_seed(0)
    for name, target in checkpoint_targets(config, weights).items():
        if name.endswith("norm.weight"):
            target.fill_(1.0)
        else:
            target.normal_(std=_RANDOM_STD, generator=generator)
    return Decoder(config, weights, context_length, kernels)


def shard_paths(model_path: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, in order."""
    index_path = model_path / INDEX_NAME
    if index_path.exists():
        names = set(json.loads(index_path.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        names = {SINGLE_NAME}
    paths = sorted(model_path / name for name in names)
    for path in paths:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; weights must be safetensors files.")
    return paths


def checkpoint_dtype(model_path: Path) -> torch.dtype:
    """The data type of the published weights: that of their first tensor, without weights as the configuration says."""
    if not (model_path / SINGLE_NAME).exists() and not (model_path / INDEX_NAME).exists():
        config = json.loads((model_path / "config.json").read_text(encoding="utf-8"))
        return _DTYPES.get(config.get("dtype") or config.get("torch_dtype") or "", torch.bfloat16)
    with safe_open(shard_paths(model_path)[0], framework="pt") as shard:
        dtype = shard.get_tensor(next(iter(shard.keys()))).dtype
    assert isinstance(dtype, torch.dtype)
    return dtype


def _load_shard(path: Path, targets: dict[str, Tensor], *, is_tied: bool) -> None:
    """Copy every tensor of a shard to its target, and take that off the list."""
    with (
        safe_open(path, framework="pt") as shard,
        tqdm(list(shard.keys()), desc=f"Loading {path.name}", unit="tensor") as names,
    ):
        for name in names:
            tensor = shard.get_tensor(name)
            if name in targets:
                _fill(name, targets.pop(name), tensor)
            elif not name.endswith(_COMPUTED_SUFFIX) and not (is_tied and name == "lm_head.weight"):
                raise CheckpointError(f"{path} holds {name}, which this architecture does not have.")


def _fill(name: str, target: Tensor, tensor: Tensor) -> None:
    if tensor.shape != target.shape:
        shapes = f"{list(tensor.shape)}, but the configuration says {list(target.shape)}"
        raise CheckpointError(f"{name} has the shape {shapes}.")
    target.copy_(tensor)
