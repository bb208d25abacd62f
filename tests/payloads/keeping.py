"""Journals with a store of large values, for tests: what is in the store, and how time passes for it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from agentflow.engine.active import Options
from agentflow.journal.sqlite import SqliteJournal
from agentflow.payloads.vault import CONDEMNED
from tests.fundamentals.lives import options

KEY = b"k" * 32
LIMIT = 1000


def keeping(**settings: Any) -> Options:
    """Options of runs whose values of more than 1,000 bytes leave their rows."""
    chosen: dict[str, Any] = {"payload_inline_limit": LIMIT, **settings}
    return options(**chosen)


def stored(journal: SqliteJournal) -> list[Path]:
    """The stored values, without marks and drafts."""
    found = (path for path in journal.beside.rglob("*") if path.is_file())
    return sorted(
        path
        for path in found
        if not path.relative_to(journal.beside).as_posix().startswith((CONDEMNED, "drafts/"))
    )


def marks(journal: SqliteJournal) -> list[Path]:
    """The marks on values that are to be removed."""
    return sorted(path for path in (journal.beside / CONDEMNED).rglob("*") if path.is_file())


def grow_old(journal: SqliteJournal, seconds: float = 7200.0) -> None:
    """Let everything in the store have been written so long ago."""
    for path in journal.beside.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds, time.time() - seconds))
