"""Verbs of results across runs, and of logs."""

from __future__ import annotations

from collections.abc import Sequence

from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.protocol import CacheRow
from agentflow.model.steps import LogRow


class MemoryCache(MemoryBase):
    """See `agentflow.journal.protocol.cache.CacheVerbs`."""

    def cached(self, key: bytes, now: float) -> CacheRow | None:
        row = self._cache.get(key)
        return None if row is None or (row.expires is not None and row.expires <= now) else row

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        with self._lock:
            self._logs.extend(rows)

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        with self._lock:
            numbered = [(index, row) for index, row in enumerate(self._logs, 1) if row.run == number]
        return [item for item in numbered if item[0] > after][:limit]
