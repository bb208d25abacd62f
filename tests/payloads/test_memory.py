"""Values of a hundred megabytes: they are not held twice, however they are stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentflow.payloads.encryption import new_key

ROOT = Path(__file__).parents[2]
MOST = 1.6


def needed(how: str, kind: str, path: Path, *keys: str) -> float:
    """What a process needed of memory, as a ratio to the value's size."""
    command = [sys.executable, "-m", "tests.payloads.measured", how, kind, "100", str(path), *keys]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=110)
    return float(done.stdout)


@pytest.mark.parametrize(
    "kind", ["bytes", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("text", "container"))]
)
def test_a_large_value_is_stored_and_read_without_a_second_copy(tmp_path: Path, kind: str) -> None:
    """By the process whose task makes it, and by the one that goes on with its run."""
    assert 1.0 <= needed("store", kind, tmp_path / "j.db") < MOST
    assert 1.0 <= needed("read", kind, tmp_path / "j.db") < MOST


@pytest.mark.nightly
def test_encryption_needs_no_second_copy(tmp_path: Path) -> None:
    """It works in chunks."""
    key = new_key("k1")
    assert needed("store", "bytes", tmp_path / "j.db", key) < MOST
    assert needed("read", "bytes", tmp_path / "j.db", key) < MOST


@pytest.mark.nightly
def test_an_array_is_held_twice_only_while_it_is_recorded(tmp_path: Path) -> None:
    """Its caller gets one of its own; a later life holds one."""
    assert needed("store", "array", tmp_path / "j.db") < 1 + MOST
    assert needed("read", "array", tmp_path / "j.db") < MOST
