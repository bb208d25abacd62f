"""Verbs of what rows hold of values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from agentflow.journal.protocol.payloads import COLUMNS, Change, Holding, looking
from agentflow.journal.sqlite.base import SqliteBase

_KEPT = "substr({0}, 1, 1) < x'20' OR instr({0}, CAST('\"$\":\"kept\"' AS BLOB)) > 0"


class SqlitePayloads(SqliteBase):
    """See `agentflow.journal.protocol.payloads.PayloadVerbs`."""

    def holdings(self, table: str, after: Any, limit: int, *, every: bool = False) -> list[Holding]:
        name, columns = COLUMNS[table]
        where = looking(table, every=every, kept=_KEPT)
        rows = self._all(
            f"SELECT {name}, {', '.join(columns)} FROM {table} WHERE {where} ORDER BY {name} LIMIT ?",  # noqa: S608 - our names
            (after, limit),
        )
        return [Holding(row[0], tuple(row[1:])) for row in rows]

    def replace_holdings(self, table: str, changes: Sequence[Change]) -> int:
        name, _ = COLUMNS[table]

        def work(db: apsw.Connection) -> int:
            count = 0
            for row, column, before, after in changes:
                db.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {name} = ? AND {column} = ?",  # noqa: S608 - our names
                    (after, row, before),
                )
                count += db.changes()
            return count

        return self._commit(work, durable=True)
