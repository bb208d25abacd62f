"""Who gets a slot: the rules that every store applies inside its transactions, written once over a small table.

A claim waits in the queue of each limit that it names. It is served when it is the first in all of them and each has
slots enough; so a claim for many slots, or for slots of several limits, is never overtaken for ever. A claim that wants
more than a limit has is left out: it holds nobody up, and waits until the limit is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from agentflow.errors import Fenced, LimitNotFoundError, UsageError
from agentflow.model.limits import DEPLOYMENT_PREFIX, FLOW_PREFIX, MOST_SLOTS, Claim, Grant, Limit, Slot

#: Tokens are fractions; what decay has brought back is not compared to the last digit.
_ROUNDING = 1e-9
_LONGEST_NAME = 200


class Account(NamedTuple):
    """A limit, and what of it had been used up at a time."""

    limit: Limit
    spent: float
    spent_at: float

    def spent_now(self, now: float) -> float:
        """What has not come back yet."""
        return max(0.0, self.spent - self.limit.slot_decay_per_second * max(0.0, now - self.spent_at))


class SlotTable(Protocol):
    """What the rules need of a store, inside a transaction."""

    def account(self, name: str) -> Account | None:
        """The limit of that name."""
        ...

    def spend(self, name: str, spent: float, now: float) -> None:
        """Set what is used up of a decaying limit."""
        ...

    def add(self, slot: Slot) -> None:
        """Store a slot."""
        ...

    def of_claim(self, claim: str) -> list[Slot]:
        """The slots of a claim."""
        ...

    def drop(self, claim: str) -> None:
        """Remove the slots of a claim."""
        ...

    def drop_held(self, name: str) -> None:
        """Remove the slots of a limit that are held."""
        ...

    def grant(self, claim: str, now: float) -> None:
        """The claim holds its slots from now on."""
        ...

    def last_ticket(self, name: str) -> int:
        """The last place in the queue of a limit."""
        ...

    def next_waiting(self, name: str, after: int) -> Slot | None:
        """The first in the queue of a limit behind that place."""
        ...

    def held(self, name: str) -> list[Slot]:
        """The slots of a limit that are held."""
        ...

    def count_held(self, name: str) -> int:
        """How many those are."""
        ...

    def is_alive(self, slot: Slot) -> bool | None:
        """Whether the holder of a slot is there; None where that cannot be known."""
        ...


def checked(limit: Limit) -> Limit:
    """Refuse numbers that make no sense. Raises `UsageError`."""
    problem = ""
    if not limit.name or not limit.name.isprintable() or limit.name != limit.name.strip():
        problem = f"{limit.name!r} is no name for a limit: printable text without blanks around it"
    elif len(limit.name) > _LONGEST_NAME:
        problem = f"the name of a limit has at most {_LONGEST_NAME} characters"
    elif not 0 <= limit.limit <= MOST_SLOTS:
        problem = f"the limit {limit.name!r} must be 0 (which holds everybody) to {MOST_SLOTS:,} slots"
    elif not 0 <= limit.slot_decay_per_second < float("inf"):
        problem = f"slot_decay_per_second of {limit.name!r} must be a number of slots, not negative"
    if problem:
        raise UsageError(problem)
    return limit


def claimed(table: SlotTable, claim: Claim, owner: str, epoch: int, now: float) -> Grant:
    """Serve a new claim, or put it into the queue of each limit that it names."""
    names = [name for name in claim.names if _is_defined(table, name, claim)]
    if not names:
        return Grant.UNLIMITED
    slots = [_slot(claim, name, 0, owner, epoch, now) for name in names]
    if table.is_alive(slots[0]) is False:
        raise Fenced("this process does not own the run any more")
    if not any(table.next_waiting(name, 0) for name in names) and _may_start(table, slots, now):
        _charge(table, slots, now)
        for slot in () if claim.spends else slots:  # nobody gives back what is spent
            table.add(slot._replace(granted=now))
        return Grant.HELD
    ticket = 1 + max(table.last_ticket(name) for name in names)
    for slot in slots:
        table.add(slot._replace(ticket=ticket))
    settle(table, names, now)
    if table.of_claim(claim.id)[0].granted is not None:
        if claim.spends:
            table.drop(claim.id)
        return Grant.HELD
    if claim.waits:
        return Grant.WAITING
    table.drop(claim.id)
    return Grant.REFUSED


def _is_defined(table: SlotTable, name: str, claim: Claim) -> bool:
    account = table.account(name)
    if account is None:
        if claim.strict:
            raise LimitNotFoundError(name)
        return False
    if claim.spends and not account.limit.slot_decay_per_second:
        message = (
            f"slots of {name!r} would never come back; give it a decay: "
            f"agentflow limits set {name} {account.limit.limit} --slot-decay-per-second N"
        )
        raise UsageError(message)
    return True


def _slot(claim: Claim, name: str, ticket: int, owner: str, epoch: int, now: float) -> Slot:
    return Slot(
        claim.id, name, claim.slots, ticket, claim.run, epoch, claim.run_id, claim.step, owner, claim.keeper, now,
        claim.lease, now + claim.lease, None, claim.spends,
    )  # fmt: skip


def settle(table: SlotTable, names: Iterable[str], now: float) -> bool:
    """Serve whoever can be served in the queues of these limits; whether there was anybody."""
    todo, served = dict.fromkeys(names), False
    while todo:
        name, _ = todo.popitem()
        account = table.account(name)
        if account is not None and account.limit.active and not account.limit.limit:
            continue
        for slot in _living(table, name, now):
            slots = table.of_claim(slot.claim)
            if all(_is_first(table, part, now) for part in slots) and _may_start(table, slots, now):
                _charge(table, slots, now)
                table.grant(slot.claim, now)
                served = True
                todo.update(dict.fromkeys(part.limit for part in slots if part.limit != name))
            elif account is not None and account.limit.active:
                break
    return served


def _living(table: SlotTable, name: str, now: float) -> Iterator[Slot]:
    """The queue of a limit, without the dead and those who want more than there is."""
    slot = table.next_waiting(name, 0)
    while slot is not None:
        if is_lost(table, slot, now):
            table.drop(slot.claim)
        elif all(_can_ever(table, part) for part in table.of_claim(slot.claim)):
            yield slot
        slot = table.next_waiting(name, slot.ticket)


def _can_ever(table: SlotTable, slot: Slot) -> bool:
    account = table.account(slot.limit)
    return account is None or not account.limit.active or slot.slots <= account.limit.limit


def _is_first(table: SlotTable, slot: Slot, now: float) -> bool:
    account = table.account(slot.limit)
    if account is None or not account.limit.active:
        return True
    head = next(_living(table, slot.limit, now), None)
    return head is None or head.ticket >= slot.ticket


def _may_start(table: SlotTable, slots: Sequence[Slot], now: float) -> bool:
    return all(_has_room(table, slot, now) for slot in slots)


def _has_room(table: SlotTable, slot: Slot, now: float) -> bool:
    account = table.account(slot.limit)
    if account is None or not account.limit.active:
        return True
    if slot.slots > account.limit.limit:
        return False
    if free(table, account, now) >= slot.slots:
        return True
    return bury(table, slot.limit, now) and _has_room(table, slot, now)


def free(table: SlotTable, account: Account, now: float) -> float:
    """How many slots of a limit nobody holds, or has used up."""
    limit = account.limit
    if limit.slot_decay_per_second:
        return limit.limit - account.spent_now(now) + _ROUNDING
    return limit.limit - table.count_held(limit.name)


def free_now(table: SlotTable, account: Account, now: float) -> float:
    """How many slots of a limit are free for whoever asks: what the dead held is, though nobody has buried them yet."""
    lost = (slot for slot in table.held(account.limit.name) if is_lost(table, slot, now))
    return free(table, account, now) + sum(_rest(account, slot, now) for slot in lost)


def bury(table: SlotTable, name: str, now: float) -> bool:
    """Free what the dead held of a limit; whether there was anything."""
    lost = [slot.claim for slot in table.held(name) if is_lost(table, slot, now)]
    for claim in lost:
        _give_back(table, claim, now)
    return bool(lost)


def is_lost(table: SlotTable, slot: Slot, now: float) -> bool:
    """Whether the holder of a slot is gone, or has not been heard of for a lease."""
    alive = table.is_alive(slot)
    return slot.expires <= now if alive is None else not alive


def _charge(table: SlotTable, slots: Sequence[Slot], now: float) -> None:
    """Use up slots of limits that give them back by decay."""
    for slot in slots:
        account = table.account(slot.limit)
        if account is not None and account.limit.slot_decay_per_second:
            table.spend(slot.limit, account.spent_now(now) + slot.slots, now)


def release(table: SlotTable, claims: Sequence[str], now: float) -> bool:
    """Give back what claims hold or wait for, and serve who waits; whether anybody is to look who goes on now."""
    names: dict[str, None] = {}
    for claim in claims:
        names.update(dict.fromkeys(_give_back(table, claim, now)))
    served = settle(table, names, now)
    return served or any(
        name.startswith((FLOW_PREFIX, DEPLOYMENT_PREFIX)) for name in names
    )  # pending runs are in no queue


def _give_back(table: SlotTable, claim: str, now: float) -> list[str]:
    slots = table.of_claim(claim)
    for slot in slots:
        account = table.account(slot.limit)
        if account is None or slot.granted is None or slot.spends:
            continue
        if account.limit.slot_decay_per_second:
            rest = _rest(account, slot, now)
            table.spend(slot.limit, max(0.0, account.spent_now(now) - rest), now)
    table.drop(claim)
    return [slot.limit for slot in slots]


def _rest(account: Account, slot: Slot, now: float) -> float:
    """What of a slot that is held has not come back by itself."""
    decay = account.limit.slot_decay_per_second
    return max(0.0, slot.slots - decay * max(0.0, now - (now if slot.granted is None else slot.granted)))


def reset(table: SlotTable, name: str, now: float) -> int:
    """Free all slots of a limit, and serve who waits; returns how many were held."""
    held = table.count_held(name)
    table.spend(name, 0.0, now)
    table.drop_held(name)
    settle(table, [name], now)
    return held
