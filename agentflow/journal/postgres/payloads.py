"""Verbs of what rows hold of values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentflow.journal.postgres.base import PostgresBase
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import translated
from agentflow.journal.protocol.payloads import COLUMNS, Change, Holding, looking

_KEPT = (
    "substring({0} from 1 for 1) < '\\x20'::bytea OR position('\\x2224223a226b65707422'::bytea in {0}) > 0"
)


class PostgresPayloads(PostgresBase):
    """See `agentflow.journal.protocol.payloads.PayloadVerbs`."""

    def holdings(self, table: str, after: Any, limit: int, *, every: bool = False) -> list[Holding]:
        name, columns = COLUMNS[table]
        where = looking(table, every=every, kept=_KEPT)
        rows = self._all(
            translated(
                f"SELECT {name}, {', '.join(columns)} FROM {table} WHERE {where} ORDER BY {name} LIMIT ?"  # noqa: S608 - our names
            ),
            (after, limit),
        )
        return [Holding(row[0], tuple(row[1:])) for row in rows]

    def replace_holdings(self, table: str, changes: Sequence[Change]) -> int:
        name, _ = COLUMNS[table]

        def work(db: Session) -> int:
            count = 0
            for row, column, before, after in changes:
                statement = f"UPDATE {table} SET {column} = ? WHERE {name} = ? AND {column} = ? RETURNING 1"  # noqa: S608 - our names
                count += len(db.all(translated(statement), (after, row, before)))
            return count

        return self._commit(work)
