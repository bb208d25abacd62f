"""Which of the runs that are due a worker takes up: none that would only wait for a slot of a limit.

Such a run stays pending and belongs to nobody: it costs no thread and no process, and the worker that sees a free slot
first takes it up. Whether it gets that slot is decided by the journal, when its life begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any, NamedTuple

from agentflow.errors import LimitNotFoundError
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.limits import DEPLOYMENT_PREFIX, FLOW_PREFIX, RunLimits
from agentflow.model.runs import Run
from agentflow.model.states import StateType


class Kind(NamedTuple):
    """What a run is a run of, by name."""

    flow: str
    deployment: str

    @property
    def limits(self) -> tuple[str, str]:
        """The limits that would apply to it."""
        return FLOW_PREFIX + self.flow, DEPLOYMENT_PREFIX + self.deployment


def kind_of(run: Run) -> Kind:
    """What a run is a run of."""
    return Kind(run.flow, run.deployment)


class Admission:
    """One look at the limits. `under_way`: the runs that the worker has taken up."""

    def __init__(self, journal: Journal, under_way: Mapping[str, Kind]) -> None:
        self._journal, self._under_way = journal, under_way
        #: Limits of runs, by their kind; and how many of them may still begin, by the limit's name.
        self._limits: dict[Kind, RunLimits] = {}
        self._rooms: dict[str, int] = {}

    def admits(self, flow: Flow[..., Any], run: Run) -> bool:
        """Whether to take the run up; if so, it is counted."""
        kind = kind_of(run)
        limits = self._limits.get(kind)
        if limits is None:
            limits = self._limits[kind] = flow.limits(self._journal, run.deployment)
        if not limits.names or run.state is StateType.CANCELLING:  # that only rolls back what it has begun
            return True
        full = [name for name in limits.names if self._room(name) < 1]
        if run.started is None and not set(full).isdisjoint(limits.cancelling):
            return True  # it does not wait, but ends
        if full:
            return False
        for name in limits.names:
            self._rooms[name] -= 1
        return True

    def _room(self, name: str) -> int:
        """How many runs may begin: as many as slots are free, without those that others are about to take."""
        if name not in self._rooms:
            slots = self._journal.list_slots(limit=name)
            held = {slot.run_id for slot in slots if slot.granted is not None}
            about = {run_id for run_id, kind in list(self._under_way.items()) if name in kind.limits} - held
            about |= {slot.run_id or slot.claim for slot in slots if slot.granted is None}
            try:
                self._rooms[name] = floor(self._journal.free_slots(name)) - len(about)
            except LimitNotFoundError:  # removed meanwhile
                self._rooms[name] = 1
        return self._rooms[name]
