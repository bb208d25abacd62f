"""Verbs of results across runs, and of logs."""

from __future__ import annotations

from collections.abc import Sequence

from agentflow.journal.protocol import CacheRow
from agentflow.journal.sqlite.base import SQL, SqliteBase
from agentflow.model.steps import LogRow


class SqliteCache(SqliteBase):
    """See `agentflow.journal.protocol.cache.CacheVerbs`."""

    def cached(self, key: bytes, now: float) -> CacheRow | None:
        row = self._one(SQL["cached"], (key,))
        if row is None or (row[2] is not None and row[2] <= now):
            return None
        return CacheRow(key, *row)

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        if rows:
            self._commit(lambda db: db.executemany(SQL["add_log"], rows))

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        rows = self._all(SQL["logs"], (number, after, limit))
        return [(row[0], LogRow(*row[1:])) for row in rows]
