"""Every package at the top of the repository has its place in the import rules and in the type check."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OF_ALL = {"tests", "bench"}


def packages() -> set[str]:
    return {folder.parent.name for folder in ROOT.glob("*/__init__.py")} - OF_ALL


def test_every_package_is_placed_in_the_layers() -> None:
    linter = PROJECT["tool"]["importlinter"]
    placed = {name.strip() for layer in linter["contracts"][0]["layers"] for name in layer.split("|")}
    assert placed == packages()
    assert set(linter["root_packages"]) == packages()


def test_every_package_is_type_checked_and_shipped() -> None:
    assert set(PROJECT["tool"]["mypy"]["packages"]) == packages()
    shipped = {pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert shipped == packages()


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    folders = "|".join(sorted(packages() | {"docs", "deploy", "tests"}))
    named = re.findall(rf"`((?:{folders})/[^`\s]*)`", text) + re.findall(r"\]\(([^):]+)\)", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
