"""Brings a PostgreSQL schema to this version: forward only, in one transaction, one process at a time."""

from __future__ import annotations

from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import FOLDER
from agentflow.journal.sql import migrations, to_apply

_LEDGER = "CREATE TABLE IF NOT EXISTS migration (number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)"
#: Seconds for which a step of a migration may take, or another process that is migrating.
_PATIENCE = 3600.0
_WAY_OUT = "choose another schema= in AGENTFLOW_DATABASE_URL"


def migrate(session: Session, schema: str, where: str) -> None:
    """Apply what is missing. Raises `JournalOpenError` for a newer or altered schema, `psycopg.Error`."""
    known = migrations(FOLDER)
    if not to_apply(known, _applied(session), where, _WAY_OUT):
        return
    session.connection.patience, silence = _PATIENCE, session.connection.patience
    session.do(b"BEGIN")
    try:
        session.do(b"SET LOCAL synchronous_commit = on")
        session.do(b"SELECT pg_advisory_xact_lock(hashtext($1))", (f"agentflow schema {schema}",))
        if not session.one(b"SELECT 1 FROM pg_namespace WHERE nspname = $1", (schema,)):
            session.do(f"CREATE SCHEMA {schema}".encode())
        session.do(_LEDGER.encode())
        for migration in to_apply(known, _applied(session), where, _WAY_OUT):
            session.connection.execute(migration.text.encode(), prepare=False)
            session.do(b"INSERT INTO migration VALUES ($1, $2, $3)", migration[:2] + migration[3:])
        session.do(b"COMMIT")
        session.connection.patience = silence
    except BaseException:
        if not session.connection.closed:
            session.do(b"ROLLBACK")
        raise


def _applied(session: Session) -> dict[int, str]:
    """The checksums of the migrations that the schema has seen."""
    if session.value(b"SELECT to_regclass('migration')::text") is None:
        return {}
    return dict(session.all(b"SELECT number, checksum FROM migration"))
