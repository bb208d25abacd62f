"""The disk fails at every write and sync of a journal: what was acknowledged is still there, and nothing is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Measured
from tests.journal.fault_driver import ACTS, ROWS, is_traceless
from tests.journal.faulty_disk import Mode

ADVICE = {Mode.IO: "mend that, then resume the run", Mode.FULL: "free some space, then resume the run"}


def strike(
    folder: Path, mode: Mode, *, share: float = 0.7, first: int = 1, every: int = 1
) -> list[dict[str, Any]]:
    """Let the disk fail at one operation after another; what the driver saw at each."""
    command = [sys.executable, "-m", "tests.journal.fault_driver", str(folder), mode]
    command += [str(first), str(every), str(share)]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    points = [json.loads(line) for line in ran.stdout.splitlines()]
    assert points.pop()["spared"]
    assert len(points) > 80 // every
    return points


def missing(point: dict[str, Any], acts: Iterable[int]) -> list[int]:
    """Those of `acts` whose trace is not in the journal that was found."""
    return [act for act in acts if not point["there"][act]]


def check(points: list[dict[str, Any]], name: str, fault: Measured) -> None:
    """Sound everywhere, nothing durable lost, no hole; tells the figures."""
    corrupt = [point["at"] for point in points if not point["sound"] or point["looked"] != 0]
    lost = [point["at"] for point in points if missing(point, point["durable"])]
    pure = [point["at"] for point in points if missing(point, point["acknowledged"])]
    torn = [point["at"] for point in points if has_holes(point["there"])]
    print(
        f"{name}: {len(points)} points, durable lost {len(lost)}, corrupt {len(corrupt)}, "
        f"with acknowledged NORMAL rows lost {len(pure)}"
    )
    fault(len(points), lost=len(lost), corrupt=len(corrupt))
    assert corrupt == []
    assert lost == []
    assert torn == []


def has_holes(there: list[bool]) -> bool:
    """Whether an act left its trace although one before it did not."""
    traces = [found for act, found in zip(ACTS, there, strict=True) if not is_traceless(act)]
    return traces != sorted(traces, reverse=True)


@pytest.mark.fault(1, "kill at every journal write")
def test_a_kill_at_any_write_loses_nothing_acknowledged(tmp_path: Path, fault: Measured) -> None:
    """After kill -9 at any write or sync all acknowledged rows are there, durable or not."""
    points = strike(tmp_path, Mode.KILL)
    check(points, "kill", fault)
    assert {point["status"] for point in points} == {-9}
    assert [point["at"] for point in points if missing(point, point["acknowledged"])] == []


@pytest.mark.fault(1, "power loss at every journal write")
def test_power_loss_at_any_write_loses_nothing_durable(tmp_path: Path, fault: Measured) -> None:
    """After power loss all that was acknowledged as durable is there, and whatever was committed before it."""
    points = strike(tmp_path, Mode.POWER)
    check(points, "power loss", fault)
    before = [
        point["at"]
        for point in points
        if point["durable"] and missing(point, range(max(point["durable"]) + 1))
    ]
    assert before == []


@pytest.mark.fault(3, "disk full, or failing, at every write")
@pytest.mark.parametrize(
    ("mode", "first", "every"),
    [
        (Mode.IO, 1, 2),
        (Mode.FULL, 2, 2),
        pytest.param(Mode.IO, 1, 1, marks=pytest.mark.nightly),
        pytest.param(Mode.FULL, 1, 1, marks=pytest.mark.nightly),
    ],
)
def test_a_failing_disk_is_named_and_the_journal_is_usable_afterwards(
    tmp_path: Path, mode: Mode, first: int, every: int, fault: Measured
) -> None:
    """Every failed commit says what to do; asked for again, it succeeds, and everything is there exactly once."""
    points = strike(tmp_path, mode, first=first, every=every)
    check(points, mode, fault)
    assert [(point["at"], point["status"]) for point in points if point["status"] != 0] == []
    assert [point["at"] for point in points if missing(point, range(len(ACTS)))] == []
    assert {point["rows"] for point in points} == {ROWS}
    errors = [error for point in points for error in point["errors"]]
    assert len(errors) > 60 // every
    assert [error for error in errors if ADVICE[mode] not in error] == []
    assert [error for error in errors if "\n" in error] == []


@pytest.mark.fault(1, "power loss at every journal write")
@pytest.mark.nightly
@pytest.mark.parametrize("percent", range(5, 101, 5))
def test_power_loss_of_any_share_loses_nothing_durable(tmp_path: Path, percent: int, fault: Measured) -> None:
    """However much of the unsynced writes is lost, the durable ones are there."""
    check(strike(tmp_path, Mode.POWER, share=percent / 100), f"power loss, {percent}%", fault)
