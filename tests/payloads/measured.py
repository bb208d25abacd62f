"""A process that stores a large value and one that reads it back, and how much memory each needed.

Usage: ``python -m tests.payloads.measured HOW KIND MEGABYTES JOURNAL``; prints the most that it held beyond
what it held before, as a ratio to the value's size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentflow import flow, task
from agentflow.journal.sqlite import SqliteJournal
from tests.fundamentals.lives import Death, die, last_run, resume
from tests.payloads.keeping import KEY, keeping

MEGABYTE = 1_000_000
KINDS: dict[str, Callable[[int], Any]] = {
    "bytes": lambda size: b"0123456789" * (size // 10),
    "text": lambda size: "0123456789" * (size // 10),
    "container": lambda size: {"parts": [b"%09d," % n * (size // 100) for n in range(10)], "more": [1, 2]},
    "array": lambda size: __import__("numpy").arange(size // 8),
}
ALIVE = [True]
SIZE = [0]


@task
def made(kind: str) -> Any:
    return KINDS[kind](SIZE[0])


@flow
def measured(kind: str) -> int:
    value = made(kind)
    if not ALIVE[0]:
        raise Death
    return len(value)


def held(name: str = "VmHWM") -> int:
    """Bytes that the process holds now (VmRSS) or held at most since that was forgotten."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":")
    )
    return int(line.split()[1]) * 1024


def main(how: str, kind: str, megabytes: str, path: str, keys: str = "") -> None:
    """Store a value and die, or read it back."""
    journal = SqliteJournal(Path(path), KEY)
    using = keeping(encryption_keys=keys)
    SIZE[0] = int(megabytes) * MEGABYTE
    if kind == "array":
        KINDS[kind](8)
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    if how == "store":
        ALIVE[0] = False
        die(measured, kind, journal=journal, using=using)
    else:
        outcome = resume(measured, last_run(journal), journal, using)
        assert outcome.tally.reused == 1, outcome
    print((held() - before) / SIZE[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
