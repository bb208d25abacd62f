"""Verbs of limits and their slots."""

from __future__ import annotations

from collections.abc import Sequence

from agentflow.errors import LimitNotFoundError
from agentflow.journal import slots
from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.memory.slots import MemorySlots
from agentflow.journal.slots import Account
from agentflow.model.limits import Claim, Grant, Limit, Slot


class MemoryLimits(MemoryBase):
    """See `agentflow.journal.protocol.limits.LimitVerbs`."""

    @property
    def _table(self) -> MemorySlots:
        return MemorySlots(self)

    def set_limit(self, limit: Limit) -> None:
        slots.checked(limit)
        with self._lock:
            now = self._clock()
            found = self.accounts.get(limit.name)
            if found is None:
                self.accounts[limit.name] = Account(limit, 0.0, now)
            elif not limit.declared or found.limit.declared:
                self.accounts[limit.name] = found._replace(limit=limit)
            slots.settle(self._table, [limit.name], now)
        self._notify()

    def delete_limit(self, name: str) -> bool:
        with self._lock:
            found = name in self.accounts
            if found:
                del self.accounts[name]
                slots.settle(self._table, [name], self._clock())
        self._notify()
        return found

    def reset_limit(self, name: str) -> int:
        with self._lock:
            if name not in self.accounts:
                raise LimitNotFoundError(name)
            held = slots.reset(self._table, name, self._clock())
        self._notify()
        return held

    def list_limits(self) -> list[Limit]:
        with self._lock:
            return [self.accounts[name].limit for name in sorted(self.accounts)]

    def claim_slots(self, claim: Claim) -> Grant:
        with self._lock:
            if not claim.strict and self.accounts.keys().isdisjoint(claim.names):
                return Grant.UNLIMITED  # whoever takes nothing is not asked who he is
            if claim.run:
                self._check_epoch(claim.run, claim.epoch)
            return slots.claimed(
                self._table, claim, self._owner, claim.epoch if claim.run else 0, self._clock()
            )

    def release_slots(self, claims: Sequence[str]) -> None:
        if not claims:
            return
        with self._lock:
            told = slots.release(self._table, claims, self._clock())
        if told:
            self._notify()

    def renew_slots(self, keeper: str) -> None:
        with self._lock:
            for mine in self.slots.values():
                for name, slot in mine.items():
                    if slot.keeper == keeper:
                        mine[name] = slot._replace(expires=self._clock() + slot.lease)

    def granted_claims(self, keeper: str) -> list[str]:
        with self._lock:
            waited = {
                name for mine in self.slots.values() for name, slot in mine.items() if slot.granted is None
            }
            slots.settle(self._table, sorted(waited), self._clock())
            return [
                claim
                for claim, mine in self.slots.items()
                if any(slot.keeper == keeper and slot.granted is not None for slot in mine.values())
            ]

    def list_slots(self, *, limit: str = "", run_id: str = "", waiting_only: bool = False) -> list[Slot]:
        with self._lock:
            now = self._clock()
            found = [
                slot
                for mine in self.slots.values()
                for slot in mine.values()
                if (not limit or slot.limit == limit)
                and (not run_id or slot.run_id == run_id)
                and not (waiting_only and slot.granted is not None)
                and not (slot.spends and slot.granted is not None)
                and not slots.is_lost(self._table, slot, now)
            ]
        return sorted(
            found,
            key=lambda slot: (slot.limit, slot.granted is None, slot.granted or 0.0, slot.ticket, slot.claim),
        )

    def free_slots(self, name: str) -> float:
        with self._lock:
            account = self.accounts.get(name)
            if account is None:
                raise LimitNotFoundError(name)
            return slots.free_now(self._table, account, self._clock())
