"""Lets the disk fail at one write or sync after another while a journal is used, and prints what is left of it.

Usage: ``python -m tests.journal.fault_driver FOLDER MODE FIRST EVERY SHARE``. One JSON line per point of failure.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from agentflow.errors import DecisionRefusedError, JournalOpenError, JournalUnavailable
from agentflow.journal.commits import connect
from agentflow.journal.protocol import CacheRow
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow, StepRow
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind
from tests.journal.faulty_disk import NAME, FaultyDisk, Mode, Plan, child

KEY = b"k" * 32
PATIENCE = 12
"""How often a verb is asked for again while the disk fails."""


@dataclass(frozen=True)
class Act:
    """One verb: what it does, how one sees that it was done, and whether its commit survives power loss."""

    does: Callable[[SqliteJournal], object]
    seen: Callable[[SqliteJournal], bool]
    durable: bool = False


def is_traceless(act: Act) -> bool:
    """Whether nothing can be seen of it."""
    return act.seen is always


def row(sequence: int, event: str = "completed") -> StepRow:
    return StepRow(
        (1 << 32) + sequence, event, "task", "step", b"", b"k", b"", 0, 0, 0, 0, 0, 1.0, 2.0, b"x" * 300, None
    )


def appended(*sequences: int, durable: bool = False, plainly: bool = True, **options: Any) -> Act:
    rows = [row(sequence) for sequence in sequences]

    def does(journal: SqliteJournal) -> None:
        if not plainly:
            assert journal.try_append(1, 1, rows)
        else:
            journal.append(1, 1, rows, durable=durable, **options)

    return Act(does, lambda journal: set(rows) <= set(journal.steps(1)), durable)


def approval() -> Wait:
    return Wait("w", 1, "r", "f", "00", WaitKind.APPROVAL, "pay", {}, {}, "d", "p", 1.0)


def the_run(journal: SqliteJournal) -> Run:
    run = journal.get_run("r")
    return run if run is not None else new_run(journal)


def new_run(journal: SqliteJournal) -> Run:
    return journal.create_run(NewRun("r", "f", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0))


def decided(journal: SqliteJournal) -> bool:
    wait = journal.get_wait("w")
    return wait is not None and not wait.is_open


def consumed(journal: SqliteJournal) -> bool:
    wait = journal.get_wait("w")
    return wait is not None and wait.consumed is not None and row(30, "intent") in journal.steps(1)


def checkpoint(journal: SqliteJournal) -> None:
    connection = connect(journal.path, NAME)
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except apsw.Error:  # the checkpointer goes on at its next turn, too
        return
    finally:
        connection.close()


def always(journal: SqliteJournal) -> bool:
    del journal
    return True


ACTS = [
    Act(new_run, lambda journal: journal.get_run("r") is not None),
    appended(1),
    appended(2),
    appended(3, 4, durable=True),
    appended(5),
    Act(
        lambda journal: journal.open_wait(1, approval()),
        lambda journal: journal.get_wait("w") is not None,
        durable=True,
    ),
    appended(6, 7, plainly=False),
    Act(checkpoint, always),
    appended(8),
    Act(
        lambda journal: journal.decide("w", Decision(Verdict.APPROVED), now=2.0, allowed_digest="d"),
        decided,
        durable=True,
    ),
    appended(9),
    Act(
        lambda journal: journal.start_effect(1, 1, row(30, "intent"), wait_id="w", digest="d"),
        consumed,
        durable=True,
    ),
    appended(31),
    Act(checkpoint, always),
    appended(32),
    appended(33, 34, cache=[CacheRow(b"key", b"v", 1.0, None, 1)]),
    appended(35, durable=True),
    Act(
        lambda journal: journal.add_logs([LogRow(1, 1.0, 20, "l", "s", "text")]),
        lambda journal: len(journal.logs(1)) == 1,
    ),
    appended(36),
    Act(
        lambda journal: journal.set_state(1, 1, StateType.COMPLETED, result=b"r", release=True),
        lambda journal: the_run(journal).state is StateType.COMPLETED,
        durable=True,
    ),
]
ROWS = 16


def life(path: Path, say: Callable[[object], None]) -> None:
    """Everything that is done to a journal, each act acknowledged; one that fails is asked for again."""
    journal = opened(path, say)
    for number, act in enumerate(ACTS):
        perform(journal, act, say)
        say(number)
    journal.close()
    say("end" if Plan.count >= Plan.at else "spared")


def opened(path: Path, say: Callable[[object], None]) -> SqliteJournal:
    for _ in range(PATIENCE):
        try:
            return SqliteJournal(path, KEY, vfs=NAME)
        except JournalOpenError as error:
            say(str(error))
    raise AssertionError(path)


def perform(journal: SqliteJournal, act: Act, say: Callable[[object], None]) -> None:
    for _ in range(PATIENCE):
        try:
            act.does(journal)
        except JournalUnavailable as error:
            say(str(error))
            if act.seen(journal):
                return
        except (ValueError, DecisionRefusedError):
            assert act.seen(journal)
            return
        else:
            return
    raise AssertionError(act)


def look(path: Path, say: Callable[[object], None]) -> None:
    """What a process that comes afterwards finds: is it sound, and which acts are there."""
    journal = SqliteJournal(path, KEY)
    sound = connect(path).pragma("integrity_check") == "ok"
    if journal.get_run("r") is None:
        say({"sound": sound, "there": [is_traceless(act) for act in ACTS], "rows": 0})
    else:
        there = [act.seen(journal) for act in ACTS]
        say({"sound": sound, "there": there, "rows": len(journal.steps(1))})
    journal.close()


def told(body: Callable[[Callable[[object], None]], None]) -> tuple[int, list[Any]]:
    """Run `body` in a child; its exit status and what it said, up to its death."""
    reader, writer = os.pipe()

    def say(said: object) -> None:
        os.write(writer, json.dumps(said).encode() + b"\n")

    status = child(lambda: body(say))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return status, [json.loads(line) for line in pipe]


def point(folder: Path, template: Path, at: int) -> dict[str, Any]:
    """One journal, whose disk fails at operation `at`."""
    folder.mkdir()
    path = folder / "j.db"
    shutil.copyfile(template, path)
    Plan.at = at
    status, said = told(lambda say: life(path, say))
    looked, seen = told(lambda say: look(path, say))
    shutil.rmtree(folder)
    acknowledged = [number for number in said if isinstance(number, int)]
    words = [text for text in said if isinstance(text, str) and text not in ("end", "spared")]
    found = seen[0] if seen else {"sound": False, "there": [False] * len(ACTS), "rows": -1}
    return {
        "at": at,
        "status": status,
        "looked": looked,
        "spared": "spared" in said,
        "acknowledged": acknowledged,
        "durable": [number for number in acknowledged if ACTS[number].durable],
        "errors": words,
    } | found


def main() -> None:
    """Go through the points until one is never reached."""
    folder, Plan.mode = Path(sys.argv[1]), Mode(sys.argv[2])
    at, every, Plan.share = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    Plan.lasts = 3 if Plan.mode is Mode.FULL else 1
    disk = FaultyDisk()
    template = folder / "template.db"
    child(lambda: SqliteJournal(template, KEY).close())
    while True:
        report = point(folder / str(at), template, at)
        print(json.dumps(report), flush=True)
        if report["spared"]:
            break
        at += every
    del disk


if __name__ == "__main__":
    main()
