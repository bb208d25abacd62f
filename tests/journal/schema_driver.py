"""Kills a process at every write while it makes or migrates a database, and opens what is left.

Usage: ``python -m tests.journal.schema_driver killed|upgraded|read_only FOLDER [FILE]``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentflow.errors import JournalOpenError
from agentflow.journal.commits import connect
from agentflow.journal.sqlite import SqliteJournal
from tests.journal.faulty_disk import NAME, FaultyDisk, Mode, Plan, child

KEY = b"k" * 32
NOBODY = 65534


def killed(folder: Path) -> None:
    """One JSON line per kill: how the second opening went."""
    disk = FaultyDisk()
    Plan.at, status = 0, -9
    while status == -9:
        Plan.at += 1
        Plan.mode = (Mode.KILL, Mode.POWER)[Plan.at % 2]
        path = folder / str(Plan.at) / "j.db"
        status = child(lambda path=path: SqliteJournal(path, KEY, vfs=NAME).close())
        report: dict[str, Any] = {"at": Plan.at, "status": status}
        SqliteJournal(path, KEY).close()
        report["sound"] = connect(path).pragma("integrity_check")
        report["schema"] = [
            sql for (sql,) in connect(path).execute("SELECT sql FROM sqlite_schema ORDER BY name")
        ]
        print(json.dumps(report), flush=True)
    del disk


def upgraded(folder: Path, old: Path) -> None:
    """One JSON line per kill in the upgrade of a copy of `old`: what is there after the next opening."""
    disk = FaultyDisk()
    Plan.at, status = 0, -9
    while status == -9:
        Plan.at += 1
        Plan.mode = (Mode.KILL, Mode.POWER)[Plan.at % 2]
        path = folder / str(Plan.at) / "j.db"
        path.parent.mkdir()
        shutil.copy(old, path)
        status = child(lambda path=path: SqliteJournal(path, KEY, vfs=NAME).close())
        journal = SqliteJournal(path, KEY)
        there = [journal.get_run("old") is not None, len(journal.steps(1)), len(journal.list_waits(number=1))]
        journal.close()
        sound = connect(path).pragma("integrity_check")
        print(json.dumps({"at": Plan.at, "status": status, "sound": sound, "there": there}), flush=True)
    del disk


def read_only(folder: Path) -> None:
    """What somebody without rights is told."""

    def body() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            SqliteJournal(folder / "j.db", KEY)
        except JournalOpenError as error:
            print(json.dumps(str(error)), flush=True)

    child(body)


if __name__ == "__main__":
    scene, *paths = sys.argv[1:]
    scenes: dict[str, Callable[..., None]] = {"killed": killed, "upgraded": upgraded, "read_only": read_only}
    scenes[scene](*map(Path, paths))
