"""The process: `python -m tokenizer_svc`."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.tokenizer_svc.jobs import MODEL_NAME

COMMAND = [sys.executable, "-m", "tokenizer_svc"]


def test_a_wrong_model_path_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--model-path", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path} holds no config.json" in done.stderr


def test_it_says_what_it_serves_and_leaves_with_status_0_on_sigterm(nats_url: str, model_folder: Path) -> None:
    arguments = ["--nats-url", nats_url, "--model-path", str(model_folder), "--served-model-name", MODEL_NAME + " 2"]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "is ready" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0, lines
    assert any("vocabulary" in line and "context length 64" in line for line in lines)
    assert "is leaving" in lines[-1]
