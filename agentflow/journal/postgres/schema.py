"""Brings a PostgreSQL schema to this version: forward only, in one transaction, one process at a time."""

from __future__ import annotations

from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import FOLDER
from agentflow.journal.sql import Migration, migrations, renumbered, to_apply

_LEDGER = "CREATE TABLE IF NOT EXISTS migration (number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)"
#: Seconds for which a step of a migration may take, or another process that is migrating.
_PATIENCE = 3600.0
FIRST_OF_ALL = "259c380c0f2d1f889655dc673b31addf0cd6fc40635703e012e622ba40cb3ad2"
"""Checksum of the first migration as it was at first: without one column of runs."""
_WAY_OUT = "choose another schema= in AGENTFLOW_DATABASE_URL"


def migrate(session: Session, schema: str, where: str) -> None:
    """Apply what is missing. Raises `JournalOpenError` for a newer or altered schema, `psycopg.Error`."""
    known = migrations(FOLDER)
    if _applied(session) == {migration.number: migration.checksum for migration in known}:
        return
    session.connection.patience, silence = _PATIENCE, session.connection.patience
    session.do(b"BEGIN")
    try:
        session.do(b"SET LOCAL synchronous_commit = on")
        session.do(b"SELECT pg_advisory_xact_lock(hashtext($1))", (f"agentflow schema {schema}",))
        if not session.one(b"SELECT 1 FROM pg_namespace WHERE nspname = $1", (schema,)):
            session.do(f"CREATE SCHEMA {schema}".encode())
        session.do(_LEDGER.encode())
        _mend(session, known)
        for migration in to_apply(known, _applied(session), where, _WAY_OUT):
            session.connection.execute(migration.text.encode(), prepare=False)
            session.do(b"INSERT INTO migration VALUES ($1, $2, $3)", migration[:2] + migration[3:])
        session.do(b"COMMIT")
        session.connection.patience = silence
    except BaseException:
        if not session.connection.closed:
            session.do(b"ROLLBACK")
        raise


def _mend(session: Session, known: tuple[Migration, ...]) -> None:
    """Bring what early versions have made to where today's migrations begin."""
    done = _applied(session)
    if done.get(1) == FIRST_OF_ALL:
        session.do(b"ALTER TABLE run ADD COLUMN on_cancellation BIGINT NOT NULL DEFAULT 0")
        session.do(b"UPDATE migration SET checksum = $1 WHERE number = 1", (known[0].checksum,))
    for then, now in renumbered(known, done).items():
        session.do(b"UPDATE migration SET number = $1 WHERE number = $2", (now, then))


def _applied(session: Session) -> dict[int, str]:
    """The checksums of the migrations that the schema has seen."""
    if session.value(b"SELECT to_regclass('migration')::text") is None:
        return {}
    return dict(session.all(b"SELECT number, checksum FROM migration"))
