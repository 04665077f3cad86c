"""Reading safetensors: what is missing, superfluous or misshapen is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from gpu_worker.kernels.kernels import TorchKernels
from gpu_worker.models.config import load_model_config
from gpu_worker.models.decoder import Decoder
from gpu_worker.models.loading import CheckpointError, checkpoint_dtype, load_decoder
from tests.unit.gpu_worker.checkpoints import random_model, save

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model("llama", tie_word_embeddings=True)


def edited(model: PreTrainedModel, folder: Path, edit: Callable[[Tensors], object]) -> Path:
    """The checkpoint with its tensors changed by `edit`."""
    save(model, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def load(path: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    return load_decoder(path, load_model_config(path), torch.device("cpu"), dtype, 64, TorchKernels())


def test_a_missing_tensor_is_named(model: PreTrainedModel, tmp_path: Path) -> None:
    path = edited(model, tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors, the first is model\.layers\.1\.mlp\.up_proj\.weight"):
        load(path)


def test_an_unexpected_tensor_is_named(model: PreTrainedModel, tmp_path: Path) -> None:
    path = edited(model, tmp_path, lambda tensors: tensors.update({"model.extra": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"holds model\.extra"):
        load(path)


def test_a_tensor_of_the_wrong_shape_is_named(model: PreTrainedModel, tmp_path: Path) -> None:
    path = edited(model, tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has the shape \[3\].*\[64\]"):
        load(path)


def test_computed_buffers_and_a_copy_of_tied_embeddings_are_passed_over(model: PreTrainedModel, tmp_path: Path) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    load(edited(model, tmp_path, edit))


def test_other_formats_are_not_read(model: PreTrainedModel, tmp_path: Path) -> None:
    save(model, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must be safetensors"):
        load(tmp_path)


def test_the_published_data_type_is_found(model: PreTrainedModel, tmp_path: Path) -> None:
    def edit(tensors: Tensors) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    assert checkpoint_dtype(edited(model, tmp_path, edit)) == torch.bfloat16
    load(tmp_path, torch.float64)


def test_every_shard_shows_its_progress(
    model: PreTrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(model, tmp_path, max_shard_size="100KB")
    capsys.readouterr()
    load(tmp_path)
    shown = capsys.readouterr().err
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    assert all(f"Loading {name}: 100%" in shown for name in shards)
