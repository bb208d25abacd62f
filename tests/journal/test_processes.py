"""One SQLite file, many processes: nobody is refused for being many, and a run has one owner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Measured


def play(folder: Path, scene: str, *numbers: int) -> dict[str, Any]:
    """A scene of the driver, which forks: in a process of its own, without threads."""
    command = [sys.executable, "-W", "error", "-m", "tests.journal.process_driver", scene, str(folder)]
    ran = subprocess.run(
        [*command, *map(str, numbers)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return json.loads(ran.stdout)


def check_crowd(folder: Path, processes: int, commits: int, fault: Measured | None = None) -> None:
    seen = play(folder, "crowd", processes, commits)
    errors = [error for heard in seen["heard"] for error in heard["errors"]]
    worst = max(heard["longest"] for heard in seen["heard"])
    rate = processes * commits / seen["seconds"]
    print(f"{processes} processes x {commits} commits: {rate:.0f}/s, worst wait {worst * 1000:.0f} ms")
    if fault is not None:
        missing = sum(commits - steps for steps in seen["steps"])
        fault(processes * commits, lost=max(0, missing), doubled=max(0, -missing))
    assert errors == []
    assert seen["steps"] == [commits] * processes


@pytest.mark.fault(4, "16 processes on one SQLite file")
def test_sixteen_processes_write_at_once(tmp_path: Path, fault: Measured) -> None:
    """They make the file together, commit 500 times each, and none is told that it is locked, or loses a row."""
    check_crowd(tmp_path, 16, 500, fault)


@pytest.mark.fault(4, "16 processes on one SQLite file")
@pytest.mark.nightly
def test_sixteen_processes_write_for_long(tmp_path: Path, fault: Measured) -> None:
    """The same with 5,000 commits each, checkpoints among them."""
    check_crowd(tmp_path, 16, 5000, fault)


@pytest.mark.parametrize("attempt", range(5))
def test_processes_that_make_the_same_file_at_once(tmp_path: Path, attempt: int) -> None:
    """Every one of them finds a whole journal."""
    check_crowd(tmp_path, 8, 1)


@pytest.mark.fault(8, "two processes claim one run")
def test_a_run_has_one_owner(tmp_path: Path, fault: Measured) -> None:
    """A claim is refused by name while the owner lives; a take-over holds, whatever becomes of the owner before."""
    seen = play(tmp_path, "ownership")
    assert seen["created"] == 1
    assert seen["refused"]["error"] == "RunOwnedError"
    assert seen["refused"]["owner"].endswith(f":{seen['pid']}")
    assert seen["refused"]["owner"] in seen["refused"]["text"]
    assert seen["taken"] == 2
    assert seen["stale"]["error"] == "Fenced"
    assert seen["fresh"] == "written"
    for moment in ("while both live", "after the first let go", "after the first died"):
        assert seen[moment] == [[], True, "RunOwnedError"], moment
    assert seen["after the second died"] == [["run"], False]
    assert seen["recovered"] == 3
    assert seen["finished"] == [[], False]
    refusals = [
        seen[moment][2] for moment in ("while both live", "after the first let go", "after the first died")
    ]
    fault(
        4, lost=0, doubled=sum(answer != "RunOwnedError" for answer in (seen["refused"]["error"], *refusals))
    )


def test_a_run_is_free_at_once_when_its_owner_lets_go_or_dies(tmp_path: Path) -> None:
    """By release, by closing the journal, by kill -9."""
    seen = play(tmp_path, "handing_on")
    assert seen == {
        "released": ["run"],
        "claimed": 2,
        "asked to stop": "CANCELLING",
        "closed": ["run"],
        "stopped": "CANCELLED",
    }


def test_a_forked_process_cannot_use_its_parents_journal(tmp_path: Path) -> None:
    """It is told so, and whatever it or a second journal of the parent closes, the parent still owns its run."""
    seen = play(tmp_path, "fork")
    assert seen["status"] == 0
    *inherited, own = seen["answers"]
    assert [answer["error"] for answer in inherited] == ["JournalUnavailable"] * 4
    assert "forked" in inherited[0]["text"]
    assert own["error"] == "RunOwnedError"
    assert seen["refused"]["error"] == "RunOwnedError"
    assert seen["steps"] == 1
    assert seen["owned"] is True


def test_a_turn_to_write_ends_with_its_process(tmp_path: Path) -> None:
    """A process killed in the middle of a commit holds nobody up, although a child that it forked lives on."""
    assert play(tmp_path, "orphan") == {"created": 1}
