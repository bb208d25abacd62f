"""Verbs of keys and sessions: what a server needs that has workers write into this journal."""

from __future__ import annotations

from agentflow.journal.postgres.base import PostgresBase
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.protocol.serving import ApiKey, SessionRow


class PostgresServing(PostgresBase):
    """See `agentflow.journal.protocol.serving.ServingVerbs`. A session is a keeper whose worker the server hears."""

    def add_api_key(self, key: ApiKey, digest: bytes) -> None:
        values = (key.id, key.name, digest, key.created)
        self._commit(lambda db: db.do(SQL["add_api_key"], values))

    def api_keys(self) -> list[ApiKey]:
        return [ApiKey(*row) for row in self._all(SQL["api_keys"])]

    def revoke_api_key(self, key_id: str, now: float) -> bool:
        return self._commit(lambda db: bool(db.do(SQL["revoke_api_key"], (now, key_id))))

    def api_key_of(self, digest: bytes) -> ApiKey | None:
        row = self._one(SQL["api_key_by_digest"], (digest,))
        return None if row is None else ApiKey(*row)

    def add_session(self, row: SessionRow) -> SessionRow:
        def work(db: Session) -> SessionRow:
            keeper = int(db.value(SQL["add_keeper"], (row.owner, row.lease, row.lease)))
            stored = row._replace(number=keeper)
            db.do(SQL["add_session"], stored)
            return stored

        return self._commit(work)

    def sessions(self) -> list[SessionRow]:
        return [SessionRow(*row) for row in self._all(SQL["sessions"])]

    def get_session(self, session_id: str) -> SessionRow | None:
        row = self._one(SQL["session_by_id"], (session_id,))
        return None if row is None else SessionRow(*row)

    def drop_session(self, row: SessionRow, *, lapsed: bool) -> None:
        def work(db: Session) -> None:
            db.do(SQL["orphan_runs" if lapsed else "let_go_of_runs"], (row.number,))
            db.do(SQL["drop_keeper"], (row.number,))
            db.do(SQL["drop_session"], (row.id,))
            db.do(SQL["drop_answers"], (row.id,))

        self._commit(work)
