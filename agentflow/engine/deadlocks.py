"""Blocks that hold slots and wait for each other: found from the journal's slots alone, by every process alike.

A claim made inside of a block carries the block's claim in its id, so whoever reads the slots sees what a holder waits
for. What a holder has only submitted is no part of that: it gives its slots back without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentflow.model.ids import new_id
from agentflow.model.limits import Limit, Slot

_WITHIN = "/"


def claim_id(around: Sequence[str] = ()) -> str:
    """An id for a claim; `around`: the claims of the blocks it is made in, from the outside in, held meanwhile."""
    return _WITHIN.join((*(_own(claim) for claim in around), new_id()))


def is_nested(claim: str) -> bool:
    """Whether the claim was made inside of a block that holds slots."""
    return _WITHIN in claim


def _own(claim: str) -> str:
    return claim.rpartition(_WITHIN)[2]


def to_give_up(limits: Iterable[Limit], slots: Iterable[Slot]) -> str:
    """The claim that has to stop waiting so that others can go on: the youngest of a deadlock; "" where there is none.

    `slots`: all that are held and waited for.
    """
    most = {limit.name: limit.limit for limit in limits if limit.active}
    known = [slot for slot in slots if slot.limit in most]
    held = [slot for slot in known if slot.granted is not None]
    queue = sorted((slot for slot in known if slot.granted is None), key=lambda slot: slot.ticket)
    stuck = _stuck(most, held, queue)
    wanted = {slot.limit for slot in queue if slot.claim in stuck}
    useful = {_own(slot.claim) for slot in held if slot.limit in wanted}
    breaking = [
        slot for slot in queue if slot.claim in stuck and useful.intersection(slot.claim.split(_WITHIN)[:-1])
    ]
    return max(breaking, key=lambda slot: slot.ticket).claim if breaking else ""


def _stuck(most: dict[str, int], held: Sequence[Slot], queue: Sequence[Slot]) -> set[str]:
    """The waiting claims that get no slot even when everybody who can go on has done so, and has given back."""
    inside: dict[str, set[str]] = {}  # what is waited for inside of a block, by the block's claim
    for slot in queue:
        for around in slot.claim.split(_WITHIN)[:-1]:
            inside.setdefault(around, set()).add(slot.claim)
    stuck = {slot.claim for slot in queue}
    while True:
        freed = stuck - {slot.claim for slot in queue if not _fits(slot, most, held, queue, stuck, inside)}
        if not freed:
            return stuck
        stuck -= freed


def _fits(
    wish: Slot,
    most: dict[str, int],
    held: Sequence[Slot],
    queue: Sequence[Slot],
    stuck: set[str],
    inside: dict[str, set[str]],
) -> bool:
    """Whether a slot comes free for `wish` while `stuck` claims wait."""
    limit = most[wish.limit]
    if wish.spends or wish.slots > limit:  # with time, or when somebody raises the limit
        return True
    for other in queue:  # nobody overtakes whoever waits for the same limit
        ahead = other.limit == wish.limit and other.ticket < wish.ticket and other.slots <= limit
        if ahead and other.claim in stuck:
            return False
    taken = sum(
        slot.slots
        for slot in held
        if slot.limit == wish.limit and not stuck.isdisjoint(inside.get(_own(slot.claim), ()))
    )
    return taken + wish.slots <= limit
