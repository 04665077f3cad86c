"""The process: how it starts, how it refuses to, how it leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.detokenizer_svc import tiny_tokenizers as tiny

PROGRAM = [sys.executable, "-m", "detokenizer_svc"]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}


def test_a_wrong_model_path_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "--model-path", str(tmp_path)], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("how", ["sigterm", "end of input"])
def test_it_starts_and_leaves_with_status_0(nats_url: str, tmp_path: Path, how: str) -> None:
    tiny.byte_level().save(str(tmp_path / "tokenizer.json"))
    arguments = ["--model-path", str(tmp_path), "--nats-url", nats_url, "--exit-on-stdin-eof"]
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert any("is ready" in line for line in process.stderr)
        if how == "sigterm":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_it_imports_neither_torch_nor_transformers_nor_litestar() -> None:
    names = "{'torch', 'transformers', 'litestar', 'numpy'}"
    code = f"import detokenizer_svc.__main__, sys; print(*{names} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.split() == []
