"""Runs a flow in child processes that are killed with -9 at a chosen journal write, then resumed; prints what it saw.

Usage: ``python -m tests.engine.kill_driver FOLDER SHAPE SEED EVERY``. One JSON line per kill point. The children are
forked from this process, which has no threads and no open journal.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentflow import flow, task
from agentflow.engine.active import Options
from agentflow.flows import Flow
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import NewRun, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from agentflow.settings import Settings

BRANCHES, STEPS = 50, 3
KEY = b"k" * 32
WORLD: dict[str, Any] = {"rng": random.Random(0), "log": -1}


class KillingJournal(SqliteJournal):
    """Kills its process at the n-th write: odd numbers before the commit, even ones after it."""

    at = 0
    writes = 0

    def _tick(self) -> None:
        self.writes += 1
        if self.writes == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def create_run(self, new: NewRun, **options: Any) -> Run:
        self._tick()
        run = super().create_run(new, **options)
        self._tick()
        return run

    def set_state(self, number: int, epoch: int, state: StateType, **options: Any) -> None:
        self._tick()
        super().set_state(number, epoch, state, **options)
        self._tick()

    def append(self, number: int, epoch: int, rows: Sequence[StepRow], **options: Any) -> None:
        self._tick()
        super().append(number, epoch, rows, **options)
        self._tick()

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        self._tick()
        done = super().try_append(number, epoch, rows)
        self._tick()
        return done


def ran(branch: int, number: int) -> None:
    """Note, outside of the journal, that a body was executed."""
    os.write(WORLD["log"], b"%d.%d\n" % (branch, number))


@task
async def step(branch: int, number: int, value: int) -> int:
    """One step of a branch, which takes a random number of turns of the loop."""
    ran(branch, number)
    for _ in range(WORLD["rng"].randrange(150)):
        await asyncio.sleep(0)
    return value * 3 + branch + number


async def branch_of(number: int) -> int:
    """Three steps in a row."""
    value = number
    for index in range(STEPS):
        value = await step(number, index, value)
    return value


@flow
async def gathered() -> int:
    """Fifty branches at once."""
    return sum(await asyncio.gather(*[branch_of(number) for number in range(BRANCHES)]))


@task
def blocking_step(branch: int, number: int, value: int) -> int:
    """One step of a thread."""
    ran(branch, number)
    return value * 3 + branch + number


@task
def blocking_branch(number: int) -> int:
    """Three steps in a row, in a thread."""
    value = number
    for index in range(STEPS):
        value = blocking_step(number, index, value)
    return value


@flow
def threaded() -> int:
    """Many threads at once."""
    return sum(future.result() for future in blocking_branch.map(range(BRANCHES)))


SHAPES: dict[str, Flow[..., Any]] = {"gathered": gathered, "threaded": threaded}


def child(body: Callable[[], None]) -> int:
    """Run `body` in a forked process; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def one_life(folder: Path, shape: str, seed: int, log: str, at: int = 0) -> None:
    """Start or resume the run in `folder`."""
    WORLD["rng"] = random.Random(seed)
    WORLD["log"] = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    journal = KillingJournal(folder / "j.db", KEY)
    journal.at = at
    options = Options(settings=Settings(home=folder))
    runs = journal.list_runs(RunFilter(limit=1))
    which = SHAPES[shape]
    outcome = (
        which.resume(runs[0].id, journal=journal, options=options)
        if runs
        else which.run({}, journal=journal, options=options)
    )
    report = {
        "value": outcome.value,
        "state": outcome.state.value,
        "reused": outcome.tally.reused,
        "error": repr(outcome.error),
    }
    (folder / "outcome.json").write_text(json.dumps(report))
    journal.close()


def look(folder: Path) -> None:
    """Note what the journal says of the run: how many of the inner steps have finished, and its state."""
    journal = SqliteJournal(folder / "j.db", KEY)
    runs = journal.list_runs(RunFilter(limit=1))
    rows = journal.steps(runs[0].number) if runs else []
    count = sum(row.event == "completed" and row.name.endswith("step") for row in rows)
    state = runs[0].state.value if runs else ""
    (folder / "seen.json").write_text(json.dumps({"finished": count, "state_before": state}))
    journal.close()


def point(folder: Path, shape: str, seed: int, at: int) -> dict[str, Any]:
    """Kill the first life at write `at`, look, resume, look."""
    folder.mkdir(parents=True)
    status = child(lambda: one_life(folder, shape, seed, "first.log", at))
    child(lambda: look(folder))
    report: dict[str, Any] = {"at": at, "status": status} | json.loads((folder / "seen.json").read_text())
    if status != 0 and report["state_before"] != "COMPLETED":
        report["second"] = child(lambda: one_life(folder, shape, seed + 1, "second.log"))
        report |= json.loads((folder / "outcome.json").read_text())
        first = folder / "first.log"
        report["first_ran"] = first.read_text().split() if first.exists() else []
        report["second_ran"] = (folder / "second.log").read_text().split()
    return report


def main() -> None:
    """Go through the kill points until a life is not killed any more."""
    folder, shape, seed, every = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    at = 1
    while True:
        report = point(folder / str(at), shape, seed, at)
        print(json.dumps(report), flush=True)
        if report["status"] == 0:
            return
        at += every


if __name__ == "__main__":
    main()
