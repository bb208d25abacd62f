"""Brings a SQLite database to the schema of this version: numbered, forward only, checksummed, under the write lock."""

from __future__ import annotations

from typing import Any

import apsw

from agentflow.errors import JournalOpenError
from agentflow.journal.sql import migrations, renumbered, to_apply

_LEDGER = (
    "CREATE TABLE IF NOT EXISTS migration "
    "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT"
)
APPLICATION_ID = 0x41464C57
"""Marks a SQLite file as ours ("AFLW")."""


def migrate(connection: apsw.Connection, where: str) -> None:
    """Apply what is missing. Raises `JournalOpenError` for a newer, foreign or altered database."""
    known = migrations()
    if connection.pragma("application_id") == APPLICATION_ID and _applied(connection) == {
        migration.number: migration.checksum for migration in known
    }:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        _check_owner(connection, where)
        connection.execute(_LEDGER)
        for then, now in renumbered(known, _applied(connection)).items():
            connection.execute("UPDATE migration SET number = ? WHERE number = ?", (now, then))
        done = _applied(connection)
        for migration in to_apply(known, done, where, "choose another AGENTFLOW_HOME"):
            connection.execute(migration.text).fetchall()
            connection.execute("INSERT INTO migration VALUES (?, ?, ?)", migration[:2] + migration[3:])
        connection.execute(f"PRAGMA user_version={known[-1].number}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _applied(connection: apsw.Connection) -> dict[int, str]:
    """The checksums of the migrations that the database has seen."""
    rows: list[Any] = connection.execute("SELECT number, checksum FROM migration").fetchall()
    return dict(rows)


def _check_owner(connection: apsw.Connection, where: str) -> None:
    if connection.pragma("application_id") == APPLICATION_ID:
        return
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    if tables and "migration" not in tables:
        message = f"{where} is a database of another program; choose another AGENTFLOW_DATABASE_URL"
        raise JournalOpenError(message)
