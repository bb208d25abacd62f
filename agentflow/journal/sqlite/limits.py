"""Verbs of limits and their slots. Whoever holds a slot has a file lock: the run's, or one of the process."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import apsw

from agentflow.errors import LimitNotFoundError
from agentflow.journal import slots
from agentflow.journal.sql.filters import slots_wanted
from agentflow.journal.sql.limits import account_from, limit_from, limit_values, slot_from
from agentflow.journal.sqlite.base import SQL, SqliteBase, check_epoch
from agentflow.journal.sqlite.slots import SqliteSlots
from agentflow.model.limits import Claim, Grant, Limit, Slot

T = TypeVar("T")
#: Processes without a run lock a byte where no run has its own: run 0 and a number that they draw.
_SESSIONS = 1 << 24


class SqliteLimits(SqliteBase):
    """See `agentflow.journal.protocol.limits.LimitVerbs`."""

    _session = 0
    _session_lock = threading.Lock()

    def set_limit(self, limit: Limit) -> None:
        slots.checked(limit)

        def work(table: SqliteSlots, db: apsw.Connection, now: float) -> None:
            found = table.account(limit.name)
            if found is not None and limit.declared and not found.limit.declared:
                return
            db.execute(SQL["put_limit"], limit_values(limit, now))
            slots.settle(SqliteSlots(db, self._ownership), [limit.name], now)

        self._change(work)

    def delete_limit(self, name: str) -> bool:
        def work(table: SqliteSlots, db: apsw.Connection, now: float) -> bool:
            if table.account(name) is None:
                return False
            db.execute(SQL["drop_limit"], (name,))
            slots.settle(SqliteSlots(db, self._ownership), [name], now)
            return True

        return self._change(work)

    def reset_limit(self, name: str) -> int:
        def work(table: SqliteSlots, _: apsw.Connection, now: float) -> int:
            if table.account(name) is None:
                raise LimitNotFoundError(name)
            return slots.reset(table, name, now)

        return self._change(work)

    def list_limits(self) -> list[Limit]:
        return [limit_from(row) for row in self._all(SQL["limits"])]

    def claim_slots(self, claim: Claim) -> Grant:
        if not (claim.strict or any(self._one(SQL["limit_by_name"], (name,)) for name in claim.names)):
            return Grant.UNLIMITED
        epoch = claim.epoch if claim.run else self._own_session()

        def work(db: apsw.Connection) -> Grant:
            if claim.run:
                check_epoch(db, claim.run, epoch)
            table = SqliteSlots(db, self._ownership)
            return slots.claimed(table, claim, self.owner, epoch, self._clock())

        return self._commit(work)

    def _own_session(self) -> int:
        with self._session_lock:
            while not self._session:
                number = 1 + secrets.randbelow(_SESSIONS - 1)
                if self._ownership.acquire(0, number):
                    self._session = number
        return self._session

    def release_slots(self, claims: Sequence[str]) -> None:
        def work(db: apsw.Connection) -> bool:
            return slots.release(SqliteSlots(db, self._ownership), claims, self._clock())

        if claims and self._commit(work):
            self._notify()

    def renew_slots(self, keeper: str) -> None:
        self._commit(lambda db: db.execute(SQL["renew_slots"], (self._clock(), keeper)))

    def granted_claims(self, keeper: str) -> list[str]:
        def work(db: apsw.Connection) -> list[str]:
            names = [str(row[0]) for row in db.execute(SQL["waited_limits"]).fetchall()]
            slots.settle(SqliteSlots(db, self._ownership), names, self._clock())
            return [str(row[0]) for row in db.execute(SQL["granted_claims"], (keeper,)).fetchall()]

        return self._commit(work)

    def list_slots(self, *, limit: str = "", run_id: str = "", waiting_only: bool = False) -> list[Slot]:
        where, values = slots_wanted(limit, run_id, waiting_only=waiting_only)
        sql = f"SELECT * FROM slot WHERE {where} ORDER BY name, granted IS NULL, granted, ticket, claim"  # noqa: S608 - fixed texts
        found = [slot_from(row) for row in self._all(sql, values)]
        now = self._clock()
        return self._reading(
            lambda table: [
                slot
                for slot in found
                if not (slot.spends and slot.granted) and not slots.is_lost(table, slot, now)
            ]
        )

    def free_slots(self, name: str) -> float:
        now = self._clock()
        row = self._one(SQL["limit_by_name"], (name,))
        if row is None:
            raise LimitNotFoundError(name)
        account = account_from(row)
        return self._reading(lambda table: slots.free_now(table, account, now))

    def _reading(self, look: Callable[[SqliteSlots], T]) -> T:
        with self._read_lock:
            self._committer.check_open()
            return look(SqliteSlots(self._reader, self._ownership))

    def _change(self, work: Callable[[SqliteSlots, apsw.Connection, float], T]) -> T:
        result = self._commit(lambda db: work(SqliteSlots(db, self._ownership), db, self._clock()))
        self._notify()
        return result
