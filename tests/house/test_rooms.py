"""That the import contracts in pyproject.toml watch what they are there to watch."""

import tomllib
from pathlib import Path
from typing import Any

KNOWN_TO_THE_ENGINE = {"protocol", "rows"}


def test_every_journal_module_but_two_is_closed_to_the_engine(root: Path) -> None:
    """Of the journal the engine may import the protocol and the rows; the contract names every other module."""
    journal = root / "agentflow" / "journal"
    modules = {path.stem for path in journal.glob("*.py")} | {
        path.parent.name for path in journal.glob("*/*.py")
    }
    closed = {
        name.removeprefix("agentflow.journal.")
        for contract in contracts(root)
        if contract.get("source_modules") == ["agentflow.engine"]
        for name in contract["forbidden_modules"]
    }
    assert closed == modules - KNOWN_TO_THE_ENGINE - {"__init__"}


def contracts(root: Path) -> list[dict[str, Any]]:
    pyproject: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())
    return pyproject["tool"]["importlinter"]["contracts"]
