"""The commands of the house, their page, and the list that they install from."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def test_every_make_target_is_explained(root: Path) -> None:
    """Every target of the Makefile stands in docs/contributing.md, and every `make ...` there is a target."""
    phony = re.findall(r"^\.PHONY:(.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in phony for target in line.split()}
    explained = set(re.findall(r"`make ([\w.-]+)", (root / "docs" / "contributing.md").read_text()))
    assert targets == explained


def test_every_make_target_is_declared(root: Path) -> None:
    """Every target whose name is a plain word is declared phony: a file of that name cannot hide it."""
    makefile = (root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    phony = {
        target for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE) for target in line.split()
    }
    assert targets - phony == set()


def test_constraints_pin_every_dependency(root: Path) -> None:
    """constraints.txt pins, with hashes, a version of every dependency that pyproject.toml names and allows."""
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+).*\\\n +--hash=sha256:", constraints(root), re.MULTILINE))
    wrong = [
        str(requirement)
        for requirement in requirements(root)
        if not requirement.specifier.contains(
            pinned.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert wrong == [], "run `make constraints`"


@pytest.mark.parametrize("foreign", ["://", "--index", "--extra-index", "--find-links", " @ "])
def test_constraints_come_from_nowhere(root: Path, foreign: str) -> None:
    """constraints.txt holds names, versions and hashes only, so that every reader's own index serves it."""
    assert foreign not in constraints(root)


def constraints(root: Path) -> str:
    return (root / "constraints.txt").read_text()


def requirements(root: Path) -> list[Requirement]:
    """Everything that pyproject.toml asks for, without the project itself."""
    pyproject: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())
    lists: list[list[str]] = [
        pyproject["project"]["dependencies"],
        *pyproject["project"]["optional-dependencies"].values(),
        *pyproject["dependency-groups"].values(),
    ]
    found = [Requirement(text) for texts in lists for text in texts]
    return [requirement for requirement in found if requirement.name != pyproject["project"]["name"]]
