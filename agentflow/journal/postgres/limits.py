"""Verbs of limits and their slots. Whoever holds a slot has a keeper: the run's, or the process's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from agentflow.errors import LimitNotFoundError
from agentflow.journal import slots
from agentflow.journal.postgres.base import Alone, PostgresBase, alone, check_epoch
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.slots import PostgresSlots
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.sql.filters import slots_wanted
from agentflow.journal.sql.limits import account_from, limit_from, limit_values, slot_from
from agentflow.model.limits import Claim, Grant, Limit, Slot

T = TypeVar("T")
_CLOCK = b"SELECT clock_seconds()"


class PostgresLimits(PostgresBase):
    """See `agentflow.journal.protocol.limits.LimitVerbs`."""

    def set_limit(self, limit: Limit) -> None:
        slots.checked(limit)

        def work(table: PostgresSlots, db: Session, now: float) -> None:
            found = table.account(limit.name)
            if found is not None and limit.declared and not found.limit.declared:
                return
            db.do(SQL["put_limit"], limit_values(limit, now))
            slots.settle(PostgresSlots(db), [limit.name], now)

        self._change(work)

    def delete_limit(self, name: str) -> bool:
        def work(table: PostgresSlots, db: Session, now: float) -> bool:
            if table.account(name) is None:
                return False
            db.do(SQL["drop_limit"], (name,))
            slots.settle(PostgresSlots(db), [name], now)
            return True

        return self._change(work)

    def reset_limit(self, name: str) -> int:
        def work(table: PostgresSlots, _: Session, now: float) -> int:
            if table.account(name) is None:
                raise LimitNotFoundError(name)
            return slots.reset(table, name, now)

        return self._change(work)

    def list_limits(self) -> list[Limit]:
        return [limit_from(row) for row in self._all(SQL["limits"])]

    def claim_slots(self, claim: Claim) -> Grant:
        if not (claim.strict or any(self._one(SQL["limit_by_name"], (name,)) for name in claim.names)):
            return Grant.UNLIMITED

        def of_run(table: PostgresSlots, db: Session, now: float) -> Grant:
            check_epoch(db, claim.run, claim.epoch)
            return slots.claimed(table, claim, self.owner, claim.epoch, now)

        def of_process(db: Session, keeper: int) -> Grant:
            return slots.claimed(PostgresSlots(db), claim, self.owner, keeper, self._now(db))

        if claim.run:
            return self._alone(of_run)
        self._bury_the_dead()
        return self._commit_claim(of_process, after=lambda db: alone(db, Alone.LIMITS))

    def release_slots(self, claims: Sequence[str]) -> None:
        if claims and self._alone(lambda table, _, now: slots.release(table, claims, now)):
            self._notify()

    def renew_slots(self, keeper: str) -> None:
        self._commit(lambda db: db.do(SQL["renew_slots"], (self._now(db), keeper)), durable=False)

    def granted_claims(self, keeper: str) -> list[str]:
        def work(table: PostgresSlots, db: Session, now: float) -> list[str]:
            slots.settle(table, [str(row[0]) for row in db.all(SQL["waited_limits"])], now)
            return [str(row[0]) for row in db.all(SQL["granted_claims"], (keeper,))]

        return self._alone(work)

    def list_slots(self, *, limit: str = "", run_id: str = "", waiting_only: bool = False) -> list[Slot]:
        where, values = slots_wanted(limit, run_id, waiting_only=waiting_only)
        sql = f"SELECT * FROM slot WHERE {where} ORDER BY name, granted IS NULL, granted, ticket, claim"  # noqa: S608 - fixed texts
        found = [slot_from(row) for row in self._find(sql, values)]
        return self._looking(
            lambda table, now: [
                slot
                for slot in found
                if not (slot.spends and slot.granted) and not slots.is_lost(table, slot, now)
            ]
        )

    def free_slots(self, name: str) -> float:
        row = self._one(SQL["limit_by_name"], (name,))
        if row is None:
            raise LimitNotFoundError(name)
        account = account_from(row)
        return self._looking(lambda table, now: slots.free_now(table, account, now))

    def _looking(self, look: Callable[[PostgresSlots, float], T]) -> T:
        def reading(db: Session) -> T:
            now = db.value(_CLOCK) if self._clock is None else self._clock()
            return look(PostgresSlots(db, only_looks=True), now)

        return self._reader.read(reading)

    def _alone(self, work: Callable[[PostgresSlots, Session, float], T]) -> T:
        """Do it while nobody else changes limits or slots."""

        def doing(db: Session) -> T:
            alone(db, Alone.LIMITS)
            return work(PostgresSlots(db), db, self._now(db))

        self._bury_the_dead()
        return self._commit(doing)

    def _change(self, work: Callable[[PostgresSlots, Session, float], T]) -> T:
        result = self._alone(work)
        self._notify()
        return result
