"""kill -9, for real: fifty concurrent branches of three steps, a process killed at each of its journal writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.kill_driver import BRANCHES, STEPS
from tests.faults import Measured

ROOT = Path(__file__).parents[2]
ALL = BRANCHES * STEPS


def expected() -> int:
    """The sum that an uninterrupted run returns."""
    total = 0
    for branch in range(BRANCHES):
        value = branch
        for number in range(STEPS):
            value = value * 3 + branch + number
        total += value
    return total


@pytest.mark.fault(2, "kill -9 at every write of a run")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("shape", "every"), [("gathered", 1), ("threaded", 7)])
def test_a_killed_run_reuses_every_finished_step(
    tmp_path: Path, shape: str, every: int, fault: Measured
) -> None:
    """Whatever write it was killed at: no finished step runs again, none is missing, and the result is right.

    The branches complete in another order in the second life.
    """
    seed = "20261123"
    command = [sys.executable, "-m", "tests.engine.kill_driver", str(tmp_path / "k"), shape, seed, str(every)]
    driver = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert driver.returncode == 0, driver.stderr
    points = [json.loads(line) for line in driver.stdout.splitlines()]
    killed = [point for point in points if point["status"] == -9]
    resumed = [point for point in killed if "value" in point]
    again = sum(max(0, len(point["second_ran"]) - (ALL - point["finished"])) for point in resumed)
    wrong = [point["at"] for point in resumed if point["value"] != expected()]
    fault(len(killed), lost=again, corrupt=len(wrong))
    assert len(killed) == len(points) - 1
    assert len(resumed) > 10
    assert {point["finished"] for point in resumed} & set(range(1, ALL)), "no kill point lies in the middle"
    for point in resumed:
        where = f"seed {seed}, write {point['at']}: {point}"
        assert point["state"] == "COMPLETED", where
        assert point["value"] == expected(), where
        assert len(point["second_ran"]) == ALL - point["finished"], where
        assert len(set(point["second_ran"])) == len(point["second_ran"]), where
        assert set(point["first_ran"]) | set(point["second_ran"]) >= {
            f"{branch}.{number}" for branch in range(BRANCHES) for number in range(STEPS)
        }, where
