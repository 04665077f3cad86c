"""deploy/make-secrets.sh: a password per stage, made once."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "make-secrets.sh"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    shutil.copy(SCRIPT, tmp_path / "deploy")
    return tmp_path


def run_in(project: Path) -> dict[str, str]:
    """What `.env` holds afterwards."""
    subprocess.run([project / "deploy" / SCRIPT.name], check=True, capture_output=True)
    lines = (project / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_every_stage_gets_a_long_password_of_its_own_that_nobody_else_can_read(project: Path) -> None:
    made = run_in(project)
    assert set(made) == {f"NATS_{stage}_PASSWORD" for stage in ("GATEWAY", "TOKENIZER", "WORKER", "DETOKENIZER")}
    assert len(set(made.values())) == 4
    assert all(re.fullmatch("p[0-9a-f]{48}", password) for password in made.values())
    assert stat.S_IMODE((project / ".env").stat().st_mode) == 0o600


def test_what_is_there_stays(project: Path) -> None:
    (project / ".env").write_text("PORT=31000\nNATS_WORKER_PASSWORD=mine")  # and no newline at the end
    made = run_in(project)
    assert made["PORT"] == "31000"
    assert made["NATS_WORKER_PASSWORD"] == "mine"
    assert run_in(project) == made


def test_an_empty_password_is_replaced(project: Path) -> None:
    (project / ".env").write_text("NATS_WORKER_PASSWORD=\n")
    assert run_in(project)["NATS_WORKER_PASSWORD"].startswith("p")
