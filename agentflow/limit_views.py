"""What people and programs are shown of limits: who holds their slots, who waits, and for what a run waits.

The same in CLI, REST and pages. How slots are given: `agentflow.journal.slots`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from agentflow.engine.limits import describe, holder_of
from agentflow.errors import LimitNotFoundError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.limits import DEPLOYMENT_PREFIX, FLOW_PREFIX, Limit, Slot
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.payloads.opening import open_for_people
from agentflow.views import run_view, stamp

#: Prefect's name of the state of a run that waits for a slot before it starts.
AWAITING = "AwaitingConcurrencySlot"
#: How many runs that nobody has taken up are looked at, the newest ones.
_MOST_PENDING = 10_000


def find_limit(journal: Journal, name: str) -> Limit:
    """The limit of that name. Raises `LimitNotFoundError`."""
    for limit in journal.list_limits():
        if limit.name == name:
            return limit
    raise LimitNotFoundError(name)


def limit_view(journal: Journal, limit: Limit) -> dict[str, Any]:
    """A limit, its holders and its queue."""
    slots, free = journal.list_slots(limit=limit.name), journal.free_slots(limit.name)
    waiting = [_slot_view(slot) for slot in slots if slot.granted is None]
    if limit.active and free < 1:
        waiting += _pending(journal, limit, {slot.run_id for slot in slots})
    return {
        "name": limit.name,
        "limit": limit.limit,
        "active": limit.active,
        "slot_decay_per_second": limit.slot_decay_per_second,
        "collision_strategy": limit.collision_strategy.value,
        "declared": limit.declared,
        "free": round(free, 3),
        "holders": [_slot_view(slot) for slot in slots if slot.granted is not None],
        "waiting": waiting,
    }


def _pending(journal: Journal, limit: Limit, known: set[str]) -> list[dict[str, Any]]:
    """The runs that nobody takes up before there is a slot for them."""
    wanted = RunFilter(limit=_MOST_PENDING, states=(StateType.PENDING,))
    if limit.name.startswith(FLOW_PREFIX):
        wanted = wanted._replace(flow=limit.name.removeprefix(FLOW_PREFIX))
    elif limit.name.startswith(DEPLOYMENT_PREFIX):
        wanted = wanted._replace(deployment=limit.name.removeprefix(DEPLOYMENT_PREFIX))
    else:
        return []
    runs = journal.list_runs(wanted)
    return [
        {
            "holder": f"run {run.id}",
            "run_id": run.id,
            "step": run.flow,
            "process": "",
            "slots": 1,
            "since": stamp(run.created),
            "granted": None,
        }
        for run in reversed(runs)
        if run.id not in known
    ]


def limit_views(journal: Journal) -> list[dict[str, Any]]:
    """All limits by name; one that is removed meanwhile is left out."""
    views: list[dict[str, Any]] = []
    for limit in journal.list_limits():
        try:
            views.append(limit_view(journal, limit))
        except LimitNotFoundError:
            continue
    return views


def _slot_view(slot: Slot) -> dict[str, Any]:
    return {
        "holder": holder_of(slot),
        "run_id": slot.run_id or None,
        "step": slot.step,
        "process": slot.owner,
        "slots": slot.slots,
        "since": stamp(slot.since),
        "granted": stamp(slot.granted),
    }


class Queues:
    """Who waits for slots, as of one look at the journal; read where somebody asks."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._texts: dict[str, str] = {}
        self._opened = open_for_people(journal)

    @cached_property
    def _limits(self) -> dict[str, Limit]:
        return {limit.name: limit for limit in self._journal.list_limits()}

    @cached_property
    def _waiting(self) -> dict[str, list[Slot]]:
        waiting: dict[str, list[Slot]] = {}
        for slot in self._journal.list_slots(waiting_only=True) if self._limits else ():
            waiting.setdefault(slot.run_id, []).append(slot)
        return waiting

    def awaited_by(self, run: Run) -> list[dict[str, Any]]:
        """The slots that a run waits for, each with what it is wanted for and who is in the way."""
        if run.state.is_final:
            return []
        awaited = [
            self._awaited(slot.limit, slot.step, slot.slots, slot.since)
            for slot in self._waiting.get(run.id, ())
        ]
        if not awaited and run.state is StateType.PENDING:
            awaited += [
                self._awaited(name, run.flow, 1, run.created)
                for name in _of_runs(run.flow, run.deployment)
                if self._is_full(name)
            ]
        return awaited

    def _is_full(self, name: str) -> bool:
        """Whether a run would have to wait for its slot; nobody takes it up before there is one."""
        limit = self._limits.get(name)
        try:
            return limit is not None and limit.active and self._journal.free_slots(name) < 1
        except LimitNotFoundError:
            return False

    def _awaited(self, name: str, step: str, slots: int, since: float) -> dict[str, Any]:
        if name not in self._texts:
            self._texts[name] = describe(self._journal, [name]) or f"a slot of {name}"
        return {"limit": name, "step": step, "slots": slots, "since": stamp(since), "text": self._texts[name]}

    def view(self, run: Run, *, full: bool = True) -> dict[str, Any]:
        """`run_view`, with ``awaiting_slots``; ``state_name`` is `AWAITING` while it cannot start for want of one."""
        return with_slots(run_view(run, full=full, opened=self._opened), self.awaited_by(run))


def _of_runs(flow: str, deployment: str) -> list[str]:
    """The limits of which such a run needs slots before it starts."""
    return [FLOW_PREFIX + flow, *([DEPLOYMENT_PREFIX + deployment] if deployment else [])]


def with_slots(view: dict[str, Any], awaited: list[dict[str, Any]]) -> dict[str, Any]:
    """The view of a run and the slots that it waits for."""
    names = _of_runs(view["flow"], view["deployment"] or "")
    held_up = any(slot["limit"] in names for slot in awaited)
    name = AWAITING if held_up and view["state"] != StateType.CANCELLING else None
    return view | {"state_name": name, "awaiting_slots": awaited}


def in_the_way(awaited: Iterable[dict[str, Any]]) -> str:
    """What is waited for, and who holds it, in one line; "" for nothing."""
    return "; ".join(dict.fromkeys(f"waits for {slot['text']}" for slot in awaited))
