"""Verbs of keys and sessions: what a server needs that has workers write into this journal."""

from __future__ import annotations

import apsw

from agentflow.journal.protocol.serving import ApiKey, SessionRow
from agentflow.journal.sqlite.base import SQL, SqliteBase


class SqliteServing(SqliteBase):
    """See `agentflow.journal.protocol.serving.ServingVerbs`."""

    def add_api_key(self, key: ApiKey, digest: bytes) -> None:
        values = (key.id, key.name, digest, key.created)
        self._commit(lambda db: db.execute(SQL["add_api_key"], values), durable=True)

    def api_keys(self) -> list[ApiKey]:
        return [ApiKey(*row) for row in self._all(SQL["api_keys"])]

    def revoke_api_key(self, key_id: str, now: float) -> bool:
        def work(db: apsw.Connection) -> bool:
            db.execute(SQL["revoke_api_key"], (now, key_id))
            return bool(db.changes())

        return self._commit(work, durable=True)

    def api_key_of(self, digest: bytes) -> ApiKey | None:
        row = self._one(SQL["api_key_by_digest"], (digest,))
        return None if row is None else ApiKey(*row)

    def add_session(self, row: SessionRow) -> SessionRow:
        self._commit(lambda db: db.execute(SQL["add_session"], row), durable=True)
        return row

    def sessions(self) -> list[SessionRow]:
        return [SessionRow(*row) for row in self._all(SQL["sessions"])]

    def get_session(self, session_id: str) -> SessionRow | None:
        row = self._one(SQL["session_by_id"], (session_id,))
        return None if row is None else SessionRow(*row)

    def drop_session(self, row: SessionRow, *, lapsed: bool) -> None:
        del lapsed  # its locks are freed, in either case

        def work(db: apsw.Connection) -> None:
            db.execute(SQL["drop_session"], (row.id,))
            db.execute(SQL["drop_answers"], (row.id,))

        self._commit(work)
