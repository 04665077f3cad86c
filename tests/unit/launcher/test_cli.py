"""The `millrace` command finds its subcommands and says what is missing."""

import importlib.metadata
import subprocess
import sys

import pytest

from launcher.cli import run
from launcher.stages import MissingExtraError, StageProgram
from wire.settings import CommonSettings

MILLRACE = [sys.executable, "-m", "launcher"]


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"], {}) == 0
    shown = capsys.readouterr().out
    for command in ("serve", "chat", "gateway", "tokenizer", "worker", "detokenizer"):
        assert f"\n  {command} " in shown


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([], {}) == 0
    assert capsys.readouterr().out.startswith("usage: millrace COMMAND")


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], {}) == 0
    assert capsys.readouterr().out == f"millrace {importlib.metadata.version('millrace')}\n"


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["grind"], {}) == 2
    assert "no command 'grind'" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["gateway", "tokenizer", "worker", "detokenizer"])
def test_a_stage_takes_over_the_process(stage: str) -> None:
    shown = subprocess.run([*MILLRACE, stage, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--nats-url" in shown
    assert "--served-model-name" in shown


def test_help_and_version_need_no_extra() -> None:
    program = (
        "import sys; from launcher.cli import run; run(['--help'], {}); run(['--version'], {});"
        "heavy = {'torch', 'litestar', 'transformers', 'tokenizers', 'rich', 'httpx'} & sys.modules.keys();"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_a_missing_package_names_its_extra() -> None:
    program = StageProgram("worker", "gpu_worker", CommonSettings, ("msgspec", "no_such_package"))
    with pytest.raises(MissingExtraError, match=r"the worker needs no_such_package: pip install 'millrace\[worker\]'"):
        program.require_installed()


def test_a_model_folder_that_is_not_there_is_one_line() -> None:
    ended = subprocess.run([*MILLRACE, "serve", "/no/such/model"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout.rstrip().endswith("no model folder /no/such/model")
    assert len(ended.stdout.splitlines()) == 1


def test_a_port_in_use_is_one_line_and_starts_nothing(nats_url: str) -> None:
    taken = nats_url.rpartition(":")[2]
    ended = subprocess.run([*MILLRACE, "serve", "--port", taken], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in ended.stdout
    assert len(ended.stdout.splitlines()) == 1
