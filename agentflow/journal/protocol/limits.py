"""Verbs of limits and their slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentflow.model.limits import Claim, Grant, Limit, Slot


class LimitVerbs(Protocol):
    """Limits defined, slots claimed, waited for and given back. All times are the journal's.

    Claims are served first come, first served, for each limit: nobody overtakes a claim that waits for a slot of the
    same limit, however many it wants - but one that wants more than a limit has holds nobody up. What a holder held
    is free again when the holder is gone: when its run, at its epoch, is owned by nobody, or, where a store cannot
    know whether the holder lives, when its lease has run out.
    """

    def set_limit(self, limit: Limit) -> None:
        """Define a limit or change it. One that a person has set stays as it is where `limit` is declared by code."""
        ...

    def delete_limit(self, name: str) -> bool:
        """Remove a limit; whoever waits for it goes on. False if there is none."""
        ...

    def reset_limit(self, name: str) -> int:
        """Free all its slots, whoever holds them; returns how many. Raises `LimitNotFoundError`."""
        ...

    def list_limits(self) -> list[Limit]:
        """All limits by name."""
        ...

    def claim_slots(self, claim: Claim) -> Grant:
        """Take slots of all limits that `claim` names, or wait for them.

        Raises `LimitNotFoundError` where it is strict and a limit does not exist, `Fenced` for a stale epoch (unless
        there is nothing to take), `UsageError` where it spends slots that would never come back.
        """
        ...

    def release_slots(self, claims: Sequence[str]) -> None:
        """Give back what these claims hold, and wait no longer. Without effect for what is not known (any more)."""
        ...

    def renew_slots(self, keeper: str) -> None:
        """Begin the leases of all claims of that keeper anew."""
        ...

    def granted_claims(self, keeper: str) -> list[str]:
        """Free what the dead held, serve who waits, and return the claims of that keeper that hold their slots."""
        ...

    def list_slots(self, *, limit: str = "", run_id: str = "", waiting_only: bool = False) -> list[Slot]:
        """Slots that are held by the living, and those that are waited for: holders first, then the queue."""
        ...

    def free_slots(self, name: str) -> float:
        """How many slots of a limit are free now. Raises `LimitNotFoundError`."""
        ...
