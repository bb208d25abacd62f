"""A saga that is killed at any of its journal writes ends as one that is not: the world alike, each hook once."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentflow.model.states import StateType
from tests.engine.crashing import CrashingJournal
from tests.engine.saga_driver import PLACES
from tests.engine.sagas import SHAPES, Trial, Universe, World, live, three, three_async, trial

ROOT = Path(__file__).parents[2]
#: Shapes whose steps may end in another order in another life; their hooks follow that order.
CONCURRENT = {"three steps, async", "submitted"}


def finished_hooks(found: Trial) -> collections.Counter[tuple[str, bytes]]:
    """How often each hook has finished, as the journal knows it."""
    return collections.Counter(
        (row.name, row.key)
        for row in found.journal.steps(1)
        if row.kind == "hook" and row.event == "completed"
    )


def uninterrupted(shape: str, fail: bool) -> Trial:
    """How it ends where nobody kills it."""
    Universe.now = World()
    journal = CrashingJournal()
    return Trial(live(SHAPES[shape], fail, journal), Universe.now, journal)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("again", [0, 3, 6])
@pytest.mark.parametrize("fail", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_saga_killed_anywhere_ends_alike(shape: str, fail: bool, again: int) -> None:
    """The same bookings hold, the same error is raised, and each hook has finished exactly once.

    Killed once, or a second time some writes later.
    """
    expected = uninterrupted(shape, fail)
    hooks = finished_hooks(expected)
    assert hooks
    assert set(hooks.values()) == {1}
    for at in range(1, expected.journal.writes + 1):
        found = trial(SHAPES[shape], fail, at, again=again)
        if found is None:
            continue
        where = f"write {at} of {expected.journal.writes}: {found}"
        assert found.outcome.state is expected.outcome.state, where
        assert type(found.outcome.error) is type(expected.outcome.error), where
        assert found.world.booked == expected.world.booked, where
        done = finished_hooks(found)
        assert set(done.values()) == {1}, where
        names = collections.Counter(name for name, _ in done)
        assert names == collections.Counter(name for name, _ in hooks), where
        assert set(found.world.hooks) == set(expected.world.hooks), where
        if shape not in CONCURRENT:
            assert list(dict.fromkeys(found.world.hooks)) == list(dict.fromkeys(expected.world.hooks)), where
        assert found.outcome.unclaimed == (), where


@pytest.mark.parametrize("which", [three, three_async])
def test_a_rollback_is_completed_although_the_code_now_takes_another_way(which: object) -> None:
    """Once it is recorded that a transaction rolls back, code that would now end well ends with the recorded error."""
    shape = next(name for name, flow in SHAPES.items() if flow is which)
    expected = uninterrupted(shape, fail=True)
    in_mid_rollback = 0
    for at in range(1, expected.journal.writes + 1):
        found = trial(SHAPES[shape], fail=True, at=at, changed=True)
        if found is None or not found.world.changed:
            continue
        in_mid_rollback += 1
        assert found.outcome.state is StateType.FAILED, at
        assert type(found.outcome.error) is type(expected.outcome.error), at
        assert found.world.booked == set(), at
        assert found.world.hooks[-1] == expected.world.hooks[-1], at
        assert set(finished_hooks(found).values()) == {1}, at
    assert in_mid_rollback >= 6


@pytest.mark.timeout(300)
def test_a_rollback_in_a_killed_process_is_completed_by_the_next_one(tmp_path: Path) -> None:
    """Kill -9, for real, at every write of three bookings and their undoing: nothing stays booked, each hook once."""
    command = [sys.executable, "-m", "tests.engine.saga_driver", str(tmp_path / "k")]
    driver = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert driver.returncode == 0, driver.stderr
    points = [json.loads(line) for line in driver.stdout.splitlines()]
    resumed = [point for point in points if "booked" in point]
    assert sum(point["before"]["rolls_back"] for point in resumed) >= 12
    for point in resumed:
        assert (point["status"], point["state"], point["error"]) == (-9, "FAILED", "NoRoomError"), point
        assert point["booked"] == [], point
        assert len(set(point["hooks"])) == len(point["hooks"]) == 3, point
        undone = list(dict.fromkeys(line for line in point["diary"] if line.startswith("cancel")))
        assert undone == ["cancel flight", "cancel car", "cancel hotel"], point
        assert [point["diary"].count(f"book {what}") for what in PLACES] == [1, 1, 1], point
