"""A process that owns a run until it is killed: ``python -m tests.rules.owner FOLDER``; prints the run's id."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from agentflow import flow, task
from agentflow.engine.active import Options
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.settings import Settings

KEY = b"k" * 32
HOLD = threading.Event()


@task
def first() -> int:
    return 1


@task
def second() -> int:
    if HOLD.is_set():
        print("running", flush=True)
        sys.stdin.read()
    return 2


@flow
def owned() -> list[int]:
    return [first(), second()]


def main() -> None:
    """Run until somebody closes standard input, or kills."""
    HOLD.set()
    folder = Path(sys.argv[1])
    journal = SqliteJournal(folder / "j.db", KEY)
    options = Options(settings=Settings(home=folder))
    if len(sys.argv) > 2:
        owned.resume(journal.list_runs(RunFilter(limit=1))[0].id, journal=journal, options=options)
    else:
        owned.run({}, journal=journal, options=options)


if __name__ == "__main__":
    main()
