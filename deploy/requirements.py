"""Writes one requirements file per extra of pyproject.toml, so that an image's dependencies are a layer of their own.

Usage: requirements.py PYPROJECT FOLDER. `base.txt` holds what every stage needs.
"""

import sys
import tomllib
from pathlib import Path


def write_requirements(pyproject: Path, folder: Path) -> None:
    """Extras that only name other extras of the project are left out."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = {"base": project["dependencies"], **project["optional-dependencies"]}
    for name, requirements in extras.items():
        if not any(requirement.startswith(project["name"] + "[") for requirement in requirements):
            (folder / f"{name}.txt").write_text("\n".join(requirements) + "\n")


if __name__ == "__main__":
    write_requirements(Path(sys.argv[1]), Path(sys.argv[2]))
