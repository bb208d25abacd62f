"""Verbs of results across runs and their locks, and of logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agentflow.journal import rules
from agentflow.journal.postgres.base import Alone, PostgresBase, alone, check_epoch
from agentflow.journal.postgres.connections import Row, Session
from agentflow.journal.postgres.statements import SQL, translated
from agentflow.journal.protocol import CacheEntry, CacheFilter, CacheLock, CacheRow
from agentflow.journal.protocol.cache import KEPT_EXPIRED, PRUNED_AT_ONCE
from agentflow.journal.sql.filters import entries_wanted
from agentflow.model.steps import LogRow

#: Whoever decides goes by the burial of keepers, for one that has lapsed may renew; whoever looks, by the lease.
_KEPT, _LIVE = SQL["claim_is_kept"], SQL["claim_is_live"]
_ENTRY = "key, CAST(length(value) AS BIGINT), created, expires, run, run_id, task, name, parts, private"


class PostgresCache(PostgresBase):
    """See `agentflow.journal.protocol.cache.CacheVerbs`."""

    def cached(self, key: bytes) -> CacheRow | None:
        row = self._one(SQL["cached"], (key,))
        return None if row is None else CacheRow(*row)

    def cache_entries(self, wanted: CacheFilter) -> list[CacheEntry]:
        where, values = entries_wanted(wanted)
        sql = f"SELECT {_ENTRY} FROM cache WHERE {where} ORDER BY created DESC, key DESC LIMIT ?"  # noqa: S608 - fixed texts
        return [CacheEntry(*row) for row in self._find(sql, (*values, wanted.limit))]

    def clear_cache(self, wanted: CacheFilter) -> int:
        where, values = entries_wanted(wanted)
        sql = translated(f"DELETE FROM cache WHERE {where}")  # noqa: S608 - fixed texts
        return self._commit(lambda db: db.do(sql, values), durable=False)

    # -- locks
    def lock_key(self, lock: CacheLock, around: Sequence[bytes] = ()) -> CacheLock | None:
        def work(db: Session) -> CacheLock | None:
            alone(db, Alone.KEYS)
            check_epoch(db, lock.run, lock.epoch)
            holder = _holder(db, lock.key, _KEPT)
            if holder is None or (holder.run, holder.step) == (lock.run, lock.step):
                db.do(SQL["drop_key_locks"], (lock.key,))
                db.do(SQL["put_lock"], (*lock, 1))
                return lock
            if around and rules.leads_back(lock.key, around, lambda key: _inner(db, key)):
                db.do(SQL["drop_lock"], lock[:4])
                return None
            if around:
                db.do(SQL["put_lock"], (*lock, 0))
            return holder

        self._bury_the_dead()
        return self._commit(work)

    def unlock_key(self, lock: CacheLock) -> None:
        self._commit(lambda db: db.do(SQL["drop_lock"], lock[:4]))
        self._notify()

    def key_holder(self, key: bytes) -> CacheLock | None:
        return self._reader.read(lambda db: _holder(db, key, _LIVE))

    # -- logs
    def add_logs(self, rows: Sequence[LogRow]) -> None:
        if rows:
            self._commit(lambda db: db.each(SQL["add_log"], rows), durable=False)

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        rows = self._all(SQL["logs"], (number, after, limit))
        return [(row[0], LogRow(*row[1:])) for row in rows]


def _holder(db: Session, key: bytes, owned: bytes) -> CacheLock | None:
    return next(_live(db, db.all(SQL["key_locks"], (key,)), owned), None)


def _inner(db: Session, key: bytes) -> list[bytes]:
    return [lock.key for lock in _live(db, db.all(SQL["inner_locks"], (key,)), _KEPT)]


def _live(db: Session, rows: Sequence[Row], owned: bytes) -> Iterator[CacheLock]:
    """The locks among `rows` whose runs are owned by the same claim as when they were taken."""
    for lock in map(CacheLock._make, rows):
        if db.one(owned, (lock.run, lock.epoch)) is not None:
            yield lock


def cache_statements(entries: Sequence[CacheRow]) -> list[tuple[bytes, Sequence[Sequence[Any]]]]:
    """What stores entries, and removes a few that expired long ago."""
    if not entries:
        return []
    newest = max(entry.created for entry in entries)
    return [(SQL["put_cache"], entries), (SQL["prune_cache"], [(newest - KEPT_EXPIRED, PRUNED_AT_ONCE)])]


def forget_run(db: Session, number: int) -> None:
    """A run has ended: what it alone could use, and the locks that it held."""
    db.do(SQL["drop_private_cache"], (number,))
    db.do(SQL["drop_run_locks"], (number,))
