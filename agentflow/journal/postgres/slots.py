"""Limits and slots in PostgreSQL, as `agentflow.journal.slots` needs them; lives as long as a transaction."""

from __future__ import annotations

from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.slots import Account
from agentflow.journal.sql.limits import account_from, slot_from
from agentflow.model.limits import Slot


class PostgresSlots:
    """See `agentflow.journal.slots.SlotTable`."""

    def __init__(self, db: Session, *, only_looks: bool = False) -> None:
        self._only_looks = only_looks
        self._db = db
        self._accounts: dict[str, Account | None] = {}

    def account(self, name: str) -> Account | None:
        if name not in self._accounts:
            row = self._db.one(SQL["limit_by_name"], (name,))
            self._accounts[name] = None if row is None else account_from(row)
        return self._accounts[name]

    def spend(self, name: str, spent: float, now: float) -> None:
        self._db.do(SQL["spend_slots"], (spent, now, name))
        self._accounts.pop(name, None)

    def add(self, slot: Slot) -> None:
        self._db.do(SQL["add_slot"], slot)

    def of_claim(self, claim: str) -> list[Slot]:
        return [slot_from(row) for row in self._db.all(SQL["slots_of_claim"], (claim,))]

    def drop(self, claim: str) -> None:
        self._db.do(SQL["drop_claim"], (claim,))

    def drop_held(self, name: str) -> None:
        self._db.do(SQL["drop_held_slots"], (name,))

    def grant(self, claim: str, now: float) -> None:
        self._db.do(SQL["grant_claim"], (now, claim))

    def last_ticket(self, name: str) -> int:
        return int(self._db.value(SQL["last_ticket"], (name,)))

    def next_waiting(self, name: str, after: int) -> Slot | None:
        row = self._db.one(SQL["next_waiting_slot"], (name, after))
        return None if row is None else slot_from(row)

    def held(self, name: str) -> list[Slot]:
        return [slot_from(row) for row in self._db.all(SQL["held_slots"], (name,))]

    def count_held(self, name: str) -> int:
        return int(self._db.value(SQL["count_held_slots"], (name,)))

    def is_alive(self, slot: Slot) -> bool | None:
        """A run by its keeper; a process without a run is its keeper.

        Whoever decides goes by the burial: a keeper that has lapsed and is not buried may renew its lease, and then
        it owns what it owned. Whoever only looks goes by the lease: what has lapsed will be buried by whoever asks.
        """
        if slot.run:
            sql = "claim_is_live" if self._only_looks else "claim_is_kept"
            return self._db.one(SQL[sql], (slot.run, slot.epoch)) is not None
        sql = "keeper_is_live" if self._only_looks else "keeper_is_kept"
        return self._db.one(SQL[sql], (slot.epoch,)) is not None
