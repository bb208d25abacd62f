"""A saga in child processes that are killed with -9 at each of their journal writes, then resumed; prints what it saw.

Usage: ``python -m tests.engine.saga_driver FOLDER``. One JSON line per kill point. The world is a folder of files.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from agentflow import flow, task, transaction
from agentflow.engine.active import Options
from agentflow.engine.transaction_values import Transaction
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from agentflow.model.waits import Channel, Decision, Verdict, binding
from agentflow.settings import Settings
from tests.engine.kill_driver import KEY, KillingJournal, child

PLACES = ("hotel", "car", "flight")


class World:
    """Bookings and a diary, as files."""

    folder = Path()

    def note(self, line: str) -> None:
        """Add a line to the diary."""
        with (self.folder / "diary").open("a") as diary:
            diary.write(line + "\n")

    def diary(self) -> list[str]:
        """The lines of the diary."""
        path = self.folder / "diary"
        return path.read_text().split("\n")[:-1] if path.exists() else []


WORLD = World()


class NoRoomError(Exception):
    """What makes the saga fail."""


@task(side_effect=True)
def book(what: str) -> str:
    """Book something."""
    (WORLD.folder / what).touch()
    WORLD.note(f"book {what}")
    return what


@task(side_effect=True, idempotent=True)
def cancel(what: str) -> None:
    """Cancel it."""
    (WORLD.folder / what).unlink(missing_ok=True)
    WORLD.note(f"cancel {what}")


@book.on_rollback
def undo(txn: Transaction) -> None:
    """Cancel what was booked."""
    cancel(txn.get("what"))


@flow
def trip() -> None:
    """Book three things, then fail."""
    with transaction():
        for place in PLACES:
            with transaction() as one:
                one.set("what", place)
                book(place)
        raise NoRoomError


class KillingEverywhere(KillingJournal):
    """Kills at the starts of effects, too."""

    def start_effect(self, number: int, epoch: int, row: StepRow, **options: Any) -> None:
        self._tick()
        super().start_effect(number, epoch, row, **options)
        self._tick()

    def _tick(self) -> None:
        self.writes += 1
        if self.writes == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def one_life(folder: Path, at: int = 0) -> None:
    """Start or resume the run in `folder`; a person says truly what is in doubt."""
    WORLD.folder = folder
    journal = KillingEverywhere(folder / "j.db", KEY)
    for wait in journal.list_waits():
        booked = WORLD.diary().count(f"book {wait.question['arguments']['what']}") == 1
        decision = Decision(
            Verdict.HAPPENED if booked else Verdict.RUN_AGAIN,
            "booked" if booked else None,
            channel=Channel.CODE,
        )
        journal.decide(
            wait.id, decision, now=0.0, allowed_digest=binding(wait.name, wait.question["executed"])
        )
    journal.at, journal.writes = at, 0
    options = Options(settings=Settings(home=folder, quiet_grace=0.0, poll_interval=0.01), suspend_after=0.0)
    runs = journal.list_runs(RunFilter(limit=1))
    outcome = (
        trip.resume(runs[0].id, journal=journal, options=options)
        if runs
        else trip.run({}, journal=journal, options=options)
    )
    report = {"state": outcome.state.value, "error": type(outcome.error).__name__}
    (folder / "outcome.json").write_text(json.dumps(report))
    journal.close()


def look(folder: Path) -> None:
    """Note what the journal says."""
    journal = SqliteJournal(folder / "j.db", KEY)
    runs = journal.list_runs(RunFilter(limit=1))
    rows = journal.steps(runs[0].number) if runs else []
    seen = {
        "state": runs[0].state.value if runs else "",
        "rolls_back": any(row.event == "rolling_back" for row in rows),
        "hooks": [row.key.hex() for row in rows if row.kind == "hook" and row.event == "completed"],
    }
    (folder / "seen.json").write_text(json.dumps(seen))
    journal.close()


def point(folder: Path, at: int) -> dict[str, Any]:
    """Kill the first life at write `at`; resume until it ends."""
    folder.mkdir(parents=True)
    status = child(lambda: one_life(folder, at))
    child(lambda: look(folder))
    before = json.loads((folder / "seen.json").read_text())
    report: dict[str, Any] = {"at": at, "status": status, "before": before}
    if status == 0 or not before["state"] or StateType(before["state"]).is_final:
        return report
    for _ in range(5):
        child(lambda: one_life(folder))
        report |= json.loads((folder / "outcome.json").read_text())
        if report["state"] != "PAUSED":
            break
    child(lambda: look(folder))
    WORLD.folder = folder
    booked = [place for place in PLACES if (folder / place).exists()]
    after = json.loads((folder / "seen.json").read_text())
    return report | {"booked": booked, "diary": WORLD.diary(), "hooks": after["hooks"]}


def main() -> None:
    """Go through the kill points until a life is not killed any more."""
    folder, at = Path(sys.argv[1]), 1
    while True:
        report = point(folder / str(at), at)
        print(json.dumps(report), flush=True)
        if report["status"] == 0:
            return
        at += 1


if __name__ == "__main__":
    main()
