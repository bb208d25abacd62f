"""A flow whose task makes a large value, and processes that run it: ``python -m tests.payloads.driver HOW JOURNAL``."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentflow import flow, task
from agentflow.errors import JournalUnavailable
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.steps import StepRow
from tests.fundamentals.lives import Death, start
from tests.payloads.keeping import KEY, keeping

USING = keeping()
RAN: list[str] = []
ALIVE = [True]
LARGE: dict[str, Any] = {
    "text": "many words, " * 10_000,
    "bytes": b"\0\xff" * 50_000,
    "rows": [{"name": "é" * 20, "number": n} for n in range(500)],
    "mixed": ["small", {"a": b"x" * 70_000, "b": "\ud800" * 70_000, "c": (1, 2)}, bytearray(70_000)],
}


@task
def made(kind: str) -> Any:
    RAN.append(kind)
    return LARGE[kind]


@task
def next_one() -> None:
    if not ALIVE[0]:
        raise Death


@flow
def pipeline(kind: str) -> Any:
    value = made(kind)
    next_one()
    return value


class Killing(SqliteJournal):
    """Kills its process instead of writing a step."""

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().try_append(number, epoch, rows)

    def append(self, *_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def write(path: Path) -> None:
    """Store twenty values, once told to go."""
    journal = SqliteJournal(path, KEY)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(20):
        LARGE["text"] = f"the same in all of them {number}, " * 20_000
        start(pipeline, "text", journal=journal, using=USING)


def killed(path: Path) -> None:
    """Die after the value, before its row."""
    start(pipeline, "text", journal=Killing(path, KEY), using=USING)


def full(path: Path) -> None:
    """Store a value for which there is no room."""
    journal = SqliteJournal(path, KEY)
    LARGE["text"] = "too much " * 1_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
    try:
        start(pipeline, "text", journal=journal, using=USING)
    except JournalUnavailable as error:
        print(error)


if __name__ == "__main__":
    {"write": write, "killed": killed, "full": full}[sys.argv[1]](Path(sys.argv[2]))
