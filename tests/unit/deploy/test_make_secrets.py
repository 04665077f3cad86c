"""deploy/make-secrets.sh: a password per stage, made once."""

import re
import stat
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "deploy" / "make-secrets.sh"
STAGES = ("gateway", "tokenizer", "worker", "detokenizer")


def made_in(folder: Path) -> dict[str, str]:
    """What each stage's folder holds afterwards."""
    subprocess.run(["sh", SCRIPT, folder], check=True, capture_output=True)
    return {stage: (folder / stage / "password").read_text().strip() for stage in STAGES}


def test_every_stage_gets_a_long_password_of_its_own_that_nobody_else_can_read(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    assert len(set(made.values())) == 4
    assert all(re.fullmatch("p[0-9a-f]{48}", password) for password in made.values())
    for stage in STAGES:
        assert stat.S_IMODE((tmp_path / stage / "password").stat().st_mode) == 0o600


def test_the_broker_gets_them_all(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    lines = (tmp_path / "broker" / "passwords.env").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines) == {
        f"NATS_{stage.upper()}_PASSWORD": password for stage, password in made.items()
    }


def test_what_is_there_stays_and_what_is_empty_is_made(tmp_path: Path) -> None:
    first = made_in(tmp_path)
    (tmp_path / "worker" / "password").write_text("mine\n")
    (tmp_path / "gateway" / "password").write_text("")
    second = made_in(tmp_path)
    assert second["worker"] == "mine"
    assert second["tokenizer"] == first["tokenizer"]
    assert second["gateway"] not in ("", first["gateway"])
