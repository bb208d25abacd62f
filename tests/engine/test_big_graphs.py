"""Large runs: many branches that wait at once, and many handles in little memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentflow import flow, send_event, sleep, task, wait_for_event
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from tests.fundamentals.lives import KEY, Clock, options, resume, start

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "tests" / "benchmarks" / "fan_out_driver.py"


@task
async def step(index: int) -> int:
    return index


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.nightly)])
@pytest.mark.timeout(600)
def test_many_branches_wait_leave_memory_and_wake(tmp_path: Path, count: int) -> None:
    """Each branch sleeps durably between two steps; the run leaves memory as one, and comes back as one."""
    clock = Clock()
    journal = SqliteJournal(tmp_path / "many.db", KEY, clock=clock)

    async def branch(index: int) -> int:
        first = await step(index)
        await sleep(3600 + index % 7)
        return first + await step(-index)

    @flow
    async def run() -> int:
        return sum(await asyncio.gather(*[branch(index) for index in range(count)]))

    outcome = start(run, journal=journal, using=options(clock))
    assert outcome.state is StateType.PAUSED
    assert outcome.tally.executed == count
    clock.now += 3700
    outcome = resume(run, outcome.run_id, journal, options(clock))
    assert (outcome.state, outcome.value) == (StateType.COMPLETED, 0)
    assert outcome.tally.reused == count
    journal.close()


def test_many_questions_are_answered_one_by_one(tmp_path: Path) -> None:
    """Branches that wait for events of their own go on with their own, whatever the order of the answers."""
    count = 100
    journal = SqliteJournal(tmp_path / "events.db", KEY)

    async def branch(index: int) -> int:
        return await wait_for_event(f"event {index}", int)

    @flow
    async def run() -> list[int]:
        return list(await asyncio.gather(*[branch(index) for index in range(count)]))

    outcome = start(run, journal=journal)
    for index in reversed(range(count)):
        send_event(outcome.run_id, f"event {index}", index * 10, journal=journal)
    assert resume(run, outcome.run_id, journal).value == [index * 10 for index in range(count)]
    journal.close()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_map_holds_handles_not_results(tmp_path: Path, colour: str) -> None:
    """12,000 more results of 20 kB take 240 MB of journal and a small part of that in memory."""
    few, many = 3_000, 15_000
    growth = (resident_bytes(tmp_path, colour, many) - resident_bytes(tmp_path, colour, few)) / (many - few)
    assert growth < 8_000


def resident_bytes(folder: Path, colour: str, count: int) -> float:
    """Memory that so many calls of a map take in a process of their own, once all have ended."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), colour, str(count), "20000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)["kilobytes_each"] * 1000 * count
