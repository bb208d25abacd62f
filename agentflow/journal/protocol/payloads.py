"""Verbs of what rows hold of values: looked through and replaced, for those who keep the store of large values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": ("number", ("parameters", "result", "error")),
    "step": ("id", ("value", "detail")),
    "cache": ("key", ("value",)),
    "event": ("id", ("payload",)),
    "wait": ("id", ("decision",)),
}
"""By table: the column that names a row, and those that hold values, whole or within other JSON."""
FIRST: dict[str, Any] = {"run": -1, "step": -1, "cache": b"", "event": -1, "wait": ""}
"""By table: what comes before the name of any row."""


class Holding(NamedTuple):
    """A row that holds values: what names it, and its columns in the order of `COLUMNS`."""

    row: Any
    values: tuple[bytes | None, ...]


class Change(NamedTuple):
    """What a column of a row is to hold instead of what it holds now."""

    row: Any
    column: str
    before: bytes
    after: bytes


class PayloadVerbs(Protocol):
    """Verbs of the stores that outlive their process."""

    def holdings(self, table: str, after: Any, limit: int, *, every: bool = False) -> list[Holding]:
        """Rows of a table after that one, in the order of their names: with a value that is not readable in the row.

        Or `every` row.
        """
        ...

    def replace_holdings(self, table: str, changes: Sequence[Change]) -> int:
        """Replace, durably, what columns hold, where that is still what it was; returns how many there were."""
        ...


def looking(table: str, *, every: bool, kept: str) -> str:
    """The condition under which a row is looked at. `kept`: what is true of a column ``{}`` of which something is."""
    name, columns = COLUMNS[table]
    return f"{name} > ?" + (
        "" if every else f" AND ({' OR '.join(kept.format(column) for column in columns)})"
    )
