"""Named SQL and migrations, shared by all SQL stores; a 30-line loader and nothing else."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Migration(NamedTuple):
    """A numbered, forward-only change of the schema."""

    number: int
    name: str
    text: str
    checksum: str


@cache
def queries() -> dict[str, str]:
    """The statements of ``queries.sql`` by the name in the ``-- name:`` line above each."""
    text = (files(__name__) / "queries.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {name: statement.strip() for name, statement in zip(parts[::2], parts[1::2], strict=True)}


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in their order."""
    found: list[Migration] = []
    for entry in sorted((files(__name__) / "migrations").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            text = entry.read_text("utf-8")
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, text, hashlib.sha256(text.encode()).hexdigest()))
    return tuple(found)
