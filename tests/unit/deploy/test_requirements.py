"""deploy/requirements.py: what each image installs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("requirements")
    script = ROOT / "deploy" / "requirements.py"
    subprocess.run([sys.executable, str(script), str(ROOT / "pyproject.toml"), str(folder)], check=True)
    return folder


def test_every_file_that_the_images_install_is_written(folder: Path) -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    wanted = {line.split()[2].rpartition("/")[2] for line in lines if line.startswith("COPY --from=requirements")}
    assert len(wanted) == 5
    assert wanted <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(("extra", "foreign"), [("gateway", "torch"), ("detokenizer", "litestar"), ("base", "torch")])
def test_a_stage_gets_nothing_of_another(folder: Path, extra: str, foreign: str) -> None:
    assert foreign not in (folder / f"{extra}.txt").read_text()


def test_an_extra_that_names_other_extras_is_no_image(folder: Path) -> None:
    assert not (folder / "all.txt").exists()
