"""Limits and slots in SQLite, as the rules of `agentflow.journal.slots` need them; lives as long as a transaction."""

from __future__ import annotations

import apsw

from agentflow.journal.locks import Ownership
from agentflow.journal.slots import Account
from agentflow.journal.sql.limits import account_from, slot_from
from agentflow.journal.sqlite.base import SQL
from agentflow.model.limits import Slot


class SqliteSlots:
    """See `agentflow.journal.slots.SlotTable`."""

    def __init__(self, db: apsw.Connection, ownership: Ownership) -> None:
        self._db, self._ownership = db, ownership
        self._accounts: dict[str, Account | None] = {}

    def account(self, name: str) -> Account | None:
        if name not in self._accounts:
            row = self._db.execute(SQL["limit_by_name"], (name,)).fetchone()
            self._accounts[name] = None if row is None else account_from(row)
        return self._accounts[name]

    def spend(self, name: str, spent: float, now: float) -> None:
        self._db.execute(SQL["spend_slots"], (spent, now, name))
        self._accounts.pop(name, None)

    def add(self, slot: Slot) -> None:
        self._db.execute(SQL["add_slot"], slot)

    def of_claim(self, claim: str) -> list[Slot]:
        return [slot_from(row) for row in self._db.execute(SQL["slots_of_claim"], (claim,)).fetchall()]

    def drop(self, claim: str) -> None:
        self._db.execute(SQL["drop_claim"], (claim,))

    def drop_held(self, name: str) -> None:
        self._db.execute(SQL["drop_held_slots"], (name,))

    def grant(self, claim: str, now: float) -> None:
        self._db.execute(SQL["grant_claim"], (now, claim))

    def last_ticket(self, name: str) -> int:
        return self._db.execute(SQL["last_ticket"], (name,)).get

    def next_waiting(self, name: str, after: int) -> Slot | None:
        row = self._db.execute(SQL["next_waiting_slot"], (name, after)).fetchone()
        return None if row is None else slot_from(row)

    def held(self, name: str) -> list[Slot]:
        return [slot_from(row) for row in self._db.execute(SQL["held_slots"], (name,)).fetchall()]

    def count_held(self, name: str) -> int:
        return self._db.execute(SQL["count_held_slots"], (name,)).get

    def is_alive(self, slot: Slot) -> bool | None:
        if slot.run and self._db.execute(SQL["run_epoch"], (slot.run,)).get != slot.epoch:
            return False
        return self._ownership.is_held(slot.run, slot.epoch)
