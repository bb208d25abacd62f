"""Which of the runs that are due a worker takes up: none that would only wait for a slot of a limit.

Such a run stays pending and belongs to nobody: it costs no thread and no process, and the worker that sees a free slot
first takes it up. Whether it gets that slot is decided by the journal, when its life begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any

from agentflow.errors import LimitNotFoundError
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.limits import RunLimits
from agentflow.model.runs import Run
from agentflow.model.states import StateType


class Admission:
    """One look at the limits. `under_way`: the runs that the worker has taken up, and their flows, by name."""

    def __init__(self, journal: Journal, under_way: Mapping[str, str]) -> None:
        self._journal, self._under_way = journal, under_way
        #: Limits of a flow's runs, by its name; and how many of them may still begin, by the limit's.
        self._limits: dict[str, RunLimits] = {}
        self._rooms: dict[str, int] = {}

    def admits(self, flow: Flow[..., Any], run: Run) -> bool:
        """Whether to take the run up; if so, it is counted."""
        limits = self._limits.get(flow.name)
        if limits is None:
            limits = self._limits[flow.name] = flow.limits(self._journal)
        if not limits.names or run.state is StateType.CANCELLING:  # that only rolls back what it has begun
            return True
        if run.started is None and limits.cancels_new:
            return True  # it does not wait, but ends
        if any(self._room(name, flow.name) < 1 for name in limits.names):
            return False
        for name in limits.names:
            self._rooms[name] -= 1
        return True

    def _room(self, name: str, flow: str) -> int:
        """How many runs may begin: as many as slots are free, without those that others are about to take."""
        if name not in self._rooms:
            slots = self._journal.list_slots(limit=name)
            held = {slot.run_id for slot in slots if slot.granted is not None}
            about = {run_id for run_id, other in list(self._under_way.items()) if other == flow} - held
            about |= {slot.run_id or slot.claim for slot in slots if slot.granted is None}
            try:
                self._rooms[name] = floor(self._journal.free_slots(name)) - len(about)
            except LimitNotFoundError:  # removed meanwhile
                self._rooms[name] = 1
        return self._rooms[name]
