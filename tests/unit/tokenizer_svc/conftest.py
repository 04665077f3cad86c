"""What the tests of the tokenizer share: a model folder, a broker."""

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.models import write_model
from tokenizer_svc.served_model import ServedModel
from tokenizer_svc.settings import TokenizerSettings


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template and a context of 64 tokens."""
    return write_model(tmp_path_factory.mktemp("models") / "chat", generation_config={"temperature": 0.7, "top_k": 20})


@pytest.fixture(scope="session")
def model(model_folder: Path) -> ServedModel:
    return ServedModel.load(TokenizerSettings(model_path=str(model_folder)))


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """A broker of this test session alone."""
    binary = shutil.which("nats-server") or str(Path(sys.executable).parent / "nats-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([binary, "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if "Server is ready" in line:
                break
        yield f"nats://127.0.0.1:{port}"
        server.terminate()
        with contextlib.suppress(ValueError):
            server.stderr.read()
