"""Verbs of administration: how large a journal is, whether it is whole, and all of its rows, to be moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agentflow.journal.protocol.payloads import PayloadVerbs

TABLES = (
    "run",
    "step",
    "life",
    "fork",
    "wait",
    "event",
    "cache",
    "log",
    "concurrency_limit",
    "pruned",
    "deployment",
)
"""What is carried elsewhere, in this order. Not: who owns what at the moment."""

TableRow = tuple[str, dict[str, Any]]
"""The name of a table, and a row of it by the names of its columns: int, float, str, bytes or None."""


@runtime_checkable
class AdminVerbs(PayloadVerbs, Protocol):
    """Verbs of the stores that outlive their process."""

    #: Where it is, for people.
    url: str
    key: bytes

    @property
    def identity(self) -> str:
        """See `agentflow.journal.protocol.Journal.identity`."""
        ...

    @property
    def beside(self) -> Path | None:
        """See `agentflow.journal.protocol.Journal.beside`."""
        ...

    def facts(self) -> dict[str, Any]:
        """Its schema's number, its size in bytes, and how many rows of each kind it has.

        And how many of the bytes are free, where that is known: ``free_bytes``.
        """
        ...

    def faults(self) -> list[str]:
        """What is broken in it, in words; empty where it is whole. Raises `JournalUnavailable` if it cannot be read."""
        ...

    def dump(self) -> Iterator[TableRow]:
        """All rows of `TABLES`, as they stand at one moment."""
        ...

    def load(self, rows: Callable[[], Iterable[TableRow]]) -> int:
        """Store rows that `dump` gave, all or none; returns how many. `rows` may be called again.

        Raises `UsageError` where the journal is not empty, or does not know a table or a column.
        """
        ...
