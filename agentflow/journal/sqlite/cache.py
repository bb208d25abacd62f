"""Verbs of results across runs and their locks, and of logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from agentflow.journal import rules
from agentflow.journal.protocol import CacheEntry, CacheFilter, CacheLock, CacheRow
from agentflow.journal.protocol.cache import KEPT_EXPIRED, PRUNED_AT_ONCE
from agentflow.journal.sql.filters import entries_wanted
from agentflow.journal.sqlite.base import SQL, SqliteBase, check_epoch
from agentflow.model.steps import LogRow

_ENTRY = "key, length(value), created, expires, run, run_id, task, name, parts, private"


class SqliteCache(SqliteBase):
    """See `agentflow.journal.protocol.cache.CacheVerbs`."""

    def cached(self, key: bytes) -> CacheRow | None:
        row = self._one(SQL["cached"], (key,))
        return None if row is None else CacheRow(*row)

    def cache_entries(self, wanted: CacheFilter) -> list[CacheEntry]:
        where, values = entries_wanted(wanted)
        sql = f"SELECT {_ENTRY} FROM cache WHERE {where} ORDER BY created DESC, key DESC LIMIT ?"  # noqa: S608 - fixed texts
        return [CacheEntry(*row) for row in self._all(sql, (*values, wanted.limit))]

    def clear_cache(self, wanted: CacheFilter) -> int:
        where, values = entries_wanted(wanted)

        def work(db: apsw.Connection) -> int:
            db.execute(f"DELETE FROM cache WHERE {where}", values)  # noqa: S608 - fixed texts
            return db.changes()

        return self._commit(work)

    # -- locks
    def lock_key(self, lock: CacheLock, around: Sequence[bytes] = ()) -> CacheLock | None:
        def work(db: apsw.Connection) -> CacheLock | None:
            check_epoch(db, lock.run, lock.epoch)
            holder = self._holder(db, lock.key)
            if holder is None or (holder.run, holder.step) == (lock.run, lock.step):
                db.execute(SQL["drop_key_locks"], (lock.key,))
                db.execute(SQL["put_lock"], (*lock, 1))
                return lock
            if around and rules.leads_back(lock.key, around, lambda key: self._inner(db, key)):
                db.execute(SQL["drop_lock"], lock[:4])
                return None
            if around:
                db.execute(SQL["put_lock"], (*lock, 0))
            return holder

        return self._commit(work)

    def unlock_key(self, lock: CacheLock) -> None:
        self._commit(lambda db: db.execute(SQL["drop_lock"], lock[:4]))
        self._notify()

    def key_holder(self, key: bytes) -> CacheLock | None:
        with self._read_lock:
            self._committer.check_open()
            return self._holder(self._reader, key)

    def _holder(self, db: apsw.Connection, key: bytes) -> CacheLock | None:
        return next(self._live(db, db.execute(SQL["key_locks"], (key,)).fetchall()), None)

    def _inner(self, db: apsw.Connection, key: bytes) -> list[bytes]:
        return [lock.key for lock in self._live(db, db.execute(SQL["inner_locks"], (key,)).fetchall())]

    def _live(self, db: apsw.Connection, rows: list[Any]) -> Any:
        """The locks among `rows` whose runs are owned by the same claim as when they were taken."""
        for lock in map(CacheLock._make, rows):
            epoch = db.execute(SQL["run_epoch"], (lock.run,)).get
            if epoch == lock.epoch and self._ownership.is_held(lock.run, lock.epoch):
                yield lock

    # -- logs
    def add_logs(self, rows: Sequence[LogRow]) -> None:
        if rows:
            self._commit(lambda db: db.executemany(SQL["add_log"], rows))

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        rows = self._all(SQL["logs"], (number, after, limit))
        return [(row[0], LogRow(*row[1:])) for row in rows]


def put_cache(db: apsw.Connection, entries: Sequence[CacheRow]) -> None:
    """Store entries, and remove a few that expired long ago: as part of the transaction around it."""
    db.executemany(SQL["put_cache"], entries)
    newest = max(entry.created for entry in entries)
    db.execute(SQL["prune_cache"], (newest - KEPT_EXPIRED, PRUNED_AT_ONCE))


def forget_runs(db: apsw.Connection, numbers: Iterable[int]) -> None:
    """Runs have ended: what they alone could use, and the locks that they held."""
    ended = [(number,) for number in numbers]
    db.executemany(SQL["drop_private_cache"], ended)
    db.executemany(SQL["drop_run_locks"], ended)
