"""Processes on one journal, told what to do line by line: to be killed, frozen and asked from outside.

Usage: ``python -m tests.journal.postgres_driver URL LEASE``; one JSON answer for each word on the input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from agentflow.errors import Fenced, JournalUnavailable, RunOwnedError
from agentflow.journal.http import HttpJournal
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow

KEY = b"k" * 32


def new(run_id: str) -> NewRun:
    """A run to be."""
    return NewRun(run_id, "f", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0)


def row(run: Run, sequence: int) -> StepRow:
    """A row of it."""
    return StepRow(
        (run.number << 32) + sequence, "completed", "task", "step", b"", b"k", b"", 0, 0, 0, 0, 0, 1.0, 2.0,
        b"%d" % sequence, None,
    )  # fmt: skip


def answer(call: Callable[[], Any]) -> Any:
    """What a call returns, or how it is refused."""
    try:
        return call()
    except (RunOwnedError, Fenced, JournalUnavailable) as error:
        return type(error).__name__


def opened(url: str, lease: float) -> Journal:
    """The journal at that address."""
    if url.startswith("http"):
        return cast("Journal", HttpJournal(url, KEY, os.environ["AGENTFLOW_API_KEY"], lease=lease))
    return PostgresJournal(url, KEY, lease=lease)


def main() -> None:
    """Do as told until the input ends."""
    url, lease = sys.argv[1], float(sys.argv[2])
    journal = opened(url, lease)
    held: list[Run] = []

    def own(run: Run) -> int:
        held.append(run)
        return run.epoch

    def write() -> str:
        run = held[-1]
        journal.append(run.number, run.epoch, [row(run, len(journal.steps(run.number)) + 1)])
        return "written"

    verbs: dict[str, Callable[[], Any]] = {
        "create": lambda: own(journal.create_run(new("run"))),
        "offer": lambda: journal.create_run(new("run"), state=StateType.PENDING).id,
        "claim": lambda: own(journal.claim_run("run")),
        "write": write,
        "owned": lambda: journal.is_owned(journal.list_runs(RunFilter(limit=1))[0]),
        "due": lambda: [run.id for run in journal.due_runs(time.time())],
        "close": journal.close,
    }
    for word in sys.stdin:
        print(json.dumps(answer(verbs[word.strip()])), flush=True)


if __name__ == "__main__":
    main()
