"""Named SQL and migrations of the SQL stores; a small loader and the rule of versions, nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from agentflow.errors import JournalOpenError


class Migration(NamedTuple):
    """A numbered, forward-only change of the schema."""

    number: int
    name: str
    text: str
    checksum: str


@cache
def queries(folder: str = "") -> dict[str, str]:
    """The statements of a folder's ``queries.sql`` by the name in the ``-- name:`` line above each.

    Those of no folder are shared by all SQL stores, another folder has what one store adds or says differently.
    """
    text = (files(__name__) / folder / "queries.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {name: statement.strip() for name, statement in zip(parts[::2], parts[1::2], strict=True)}


@cache
def migrations(folder: str = "") -> tuple[Migration, ...]:
    """All migrations of a store in their order."""
    found: list[Migration] = []
    for entry in sorted((files(__name__) / folder / "migrations").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            text = entry.read_text("utf-8")
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, text, hashlib.sha256(text.encode()).hexdigest()))
    return tuple(found)


def renumbered(known: tuple[Migration, ...], done: Mapping[int, str]) -> dict[int, int]:
    """Migrations that a database has seen only when they had another number: it then, and now."""
    seen = set(done.items())
    today = {
        migration.checksum: migration.number
        for migration in known
        if (migration.number, migration.checksum) not in seen
    }
    return {then: today[checksum] for then, checksum in done.items() if checksum in today}


def to_apply(
    known: tuple[Migration, ...], done: Mapping[int, str], where: str, way_out: str
) -> list[Migration]:
    """The migrations that a database still needs; `done`: the checksums of those that it has seen.

    Raises `JournalOpenError` for a newer or altered database.
    """
    newest = max(done, default=0)
    if newest > known[-1].number:
        message = (
            f"{where} was written by a newer version of agentflow (schema {newest}, this one knows "
            f"{known[-1].number}); upgrade agentflow, or {way_out}"
        )
        raise JournalOpenError(message)
    for migration in known:
        if done.get(migration.number, migration.checksum) != migration.checksum:
            message = (
                f"{where}: migration {migration.number} differs from the one that was applied; use the version of "
                f"agentflow that has made it, or {way_out}"
            )
            raise JournalOpenError(message)
    return [migration for migration in known if migration.number not in done]
