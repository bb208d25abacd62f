"""Verbs of results across runs and their locks, and of logs."""

from __future__ import annotations

from collections.abc import Sequence

from agentflow.journal import rules
from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.protocol import CacheEntry, CacheFilter, CacheLock, CacheRow
from agentflow.model.steps import LogRow


class MemoryCache(MemoryBase):
    """See `agentflow.journal.protocol.cache.CacheVerbs`."""

    def cached(self, key: bytes) -> CacheRow | None:
        return self._cache.get(key)

    def cache_entries(self, wanted: CacheFilter) -> list[CacheEntry]:
        with self._lock:
            rows = [row for row in self._cache.values() if _is_wanted(row, wanted)]
        rows.sort(key=lambda row: (row.created, row.key), reverse=True)
        return [CacheEntry(row.key, len(row.value), *row[2:]) for row in rows[: wanted.limit]]

    def clear_cache(self, wanted: CacheFilter) -> int:
        with self._lock:
            keys = [key for key, row in self._cache.items() if _is_wanted(row, wanted)]
            for key in keys:
                self._drop_entry(key)
        return len(keys)

    # -- locks
    def lock_key(self, lock: CacheLock, around: Sequence[bytes] = ()) -> CacheLock | None:
        with self._lock:
            self._check_epoch(lock.run, lock.epoch)
            holder = self.key_holder(lock.key)
            if holder is None or (holder.run, holder.step) == (lock.run, lock.step):
                self._drop_locks(lambda other, held: held and other.key == lock.key)
                self._locks[lock[:2] + lock[3:4]] = (lock, True)
                return lock
            if around and rules.leads_back(lock.key, around, self._inner):
                self._locks.pop(lock[:2] + lock[3:4], None)
                return None
            if around:
                self._locks[lock[:2] + lock[3:4]] = (lock, False)
            return holder

    def unlock_key(self, lock: CacheLock) -> None:
        with self._lock:
            self._drop_locks(lambda other, _: other[:4] == lock[:4])
        self._notify()

    def key_holder(self, key: bytes) -> CacheLock | None:
        with self._lock:
            held = [lock for lock, is_held in self._locks.values() if is_held and lock.key == key]
            return next(filter(self._is_live, held), None)

    def _inner(self, key: bytes) -> list[bytes]:
        return [lock.key for lock, _ in self._locks.values() if lock.above == key and self._is_live(lock)]

    def _is_live(self, lock: CacheLock) -> bool:
        return lock.run in self._owned and self._runs[lock.run].epoch == lock.epoch

    # -- logs
    def add_logs(self, rows: Sequence[LogRow]) -> None:
        with self._lock:
            self._logs.extend(rows)

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        with self._lock:
            numbered = [(index, row) for index, row in enumerate(self._logs, 1) if row.run == number]
        return [item for item in numbered if item[0] > after][:limit]


def _is_wanted(row: CacheRow, wanted: CacheFilter) -> bool:
    return (
        wanted.task in ("", row.task)
        and wanted.name in ("", row.name)
        and (wanted.expired_by is None or not row.is_good(wanted.expired_by))
    )
