"""A model is data: nothing that comes with one is ever run, and nothing is unpickled."""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.models import write_model
from tokenizer_svc.text_tokenizer import TextTokenizer
from wire import checkpoint
from wire.checkpoint import CheckpointError

ROOT = Path(__file__).parents[2]
PACKAGES = ("wire", "gateway", "tokenizer_svc", "gpu_worker", "detokenizer_svc", "launcher")
TRAINING = ROOT / "launcher" / "demo" / "training"  # no part of what is installed
RUNS_WHAT_IT_READS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "np.load", "numpy.load"}
DOORS = {
    "tokenizer_svc/text_tokenizer.py": {"PreTrainedTokenizerFast.from_pretrained"},
}
"""Where a library reads a model's folder by itself. This class reads JSON and a template, and knows no `auto_map`."""


def sources() -> list[Path]:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return [file for file in files if TRAINING not in file.parents]


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the name that is called as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_can_run_what_it_reads(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not {name for name in imports_of(tree) if name.split(".")[0] in RUNS_WHAT_IT_READS}
    calls = dict(calls_of(tree))
    assert not FORBIDDEN_CALLS & calls.keys()
    for call in calls.values():
        assert "trust_remote_code" not in {keyword.arg for keyword in call.keywords}
    doors = {name for name in calls if name.endswith(".from_pretrained")}
    assert doors == DOORS.get(str(file.relative_to(ROOT)), set())


def test_only_data_is_downloaded_from_a_hub() -> None:
    patterns = {*checkpoint._TOKENIZER_FILES, *checkpoint._WEIGHT_FILES}
    assert patterns == {"*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"}


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    witness = tmp_path / "was-run"
    for name in ("tokenization_evil.py", "configuration_evil.py"):
        (folder / name).write_text(f"open({str(witness)!r}, 'w').close()\nclass Evil: ...\n")
    for name, entry in (
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}),
        ("config.json", {"AutoConfig": "configuration_evil.Evil"}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"auto_map": entry, "tokenizer_class": "Evil"}))
    tokenizer = TextTokenizer.load(folder)
    assert tokenizer.has_chat_template
    assert not witness.exists()


def test_a_slow_tokenizer_that_only_code_can_read_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    shutil.move(folder / "tokenizer.json", folder / "tokenizer.model")
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        TextTokenizer.load(folder)
