"""Limits and slots in memory, as the rules of `agentflow.journal.slots` need them."""

from __future__ import annotations

from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.slots import Account
from agentflow.model.limits import Slot


class MemorySlots:
    """See `agentflow.journal.slots.SlotTable`."""

    def __init__(self, journal: MemoryBase) -> None:
        self._journal = journal

    def account(self, name: str) -> Account | None:
        return self._journal.accounts.get(name)

    def spend(self, name: str, spent: float, now: float) -> None:
        accounts = self._journal.accounts
        accounts[name] = accounts[name]._replace(spent=spent, spent_at=now)

    def add(self, slot: Slot) -> None:
        self._journal.slots.setdefault(slot.claim, {})[slot.limit] = slot

    def of_claim(self, claim: str) -> list[Slot]:
        return list(self._journal.slots.get(claim, {}).values())

    def drop(self, claim: str) -> None:
        self._journal.slots.pop(claim, None)

    def drop_held(self, name: str) -> None:
        for slot in self.held(name):
            mine = self._journal.slots[slot.claim]
            del mine[name]
            if not mine:
                del self._journal.slots[slot.claim]

    def grant(self, claim: str, now: float) -> None:
        mine = self._journal.slots[claim]
        for name, slot in mine.items():
            mine[name] = slot._replace(granted=now, expires=now + slot.lease)

    def last_ticket(self, name: str) -> int:
        return max((slot.ticket for slot in self._waiting(name)), default=0)

    def next_waiting(self, name: str, after: int) -> Slot | None:
        behind = [slot for slot in self._waiting(name) if slot.ticket > after]
        return min(behind, key=lambda slot: slot.ticket, default=None)

    def _waiting(self, name: str) -> list[Slot]:
        return [slot for slot in self._of_limit(name) if slot.granted is None]

    def _of_limit(self, name: str) -> list[Slot]:
        return [mine[name] for mine in self._journal.slots.values() if name in mine]

    def held(self, name: str) -> list[Slot]:
        return [slot for slot in self._of_limit(name) if slot.granted is not None]

    def count_held(self, name: str) -> int:
        return sum(slot.slots for slot in self.held(name))

    def is_alive(self, slot: Slot) -> bool | None:
        return self._journal.is_alive(slot.run, slot.epoch)
