"""Runs of which a worker's process may die: how often in a row their lives got nowhere, and with what they may run.

When a run is parked for it stands in `agentflow.engine.poison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from agentflow.engine.active import Options
from agentflow.engine.poison import fruitless_lives
from agentflow.errors import RunFinishedError, RunOwnedError
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Run
from agentflow.model.states import StateType

#: After so many lives in a row that got nowhere a run is not under way together with others whose last life died, too:
#: one of them is what the processes die of, and the rest is not to be parked for it.
_SUSPECT = 2


class Suspects:
    """What a worker knows of the deaths of runs that it takes up."""

    def __init__(self, journal: Journal, options: Options, say: Callable[[str], None]) -> None:
        self._journal, self._options, self._say = journal, options, say
        #: Of runs whose last life died: how many in a row got nowhere, as of an epoch.
        self._deaths: dict[str, tuple[int, int]] = {}

    def fruitless(self, run: Run) -> int:
        """How many lives of the run in a row got nowhere, up to now."""
        if not run.owner or run.state not in (StateType.RUNNING, StateType.CANCELLING):
            self.forget(run.id)  # its last life did not die
            return 0
        known = self._deaths.get(run.id)
        if known is None or known[0] != run.epoch:
            known = self._deaths[run.id] = (run.epoch, fruitless_lives(self._journal, run))
        return known[1]

    def parks(self, flow: Flow[..., Any], run: Run) -> bool:
        """Whether a run takes its processes down with it: then it ends, until a person has it retried."""
        lives, most = self.fruitless(run), self._options.settings.max_crashes
        if not most or lives < most:
            return False
        with suppress(RunOwnedError, RunFinishedError):  # somebody else was faster
            message = flow.park(run, lives, journal=self._journal, options=self._options)
            if message:
                self._say(f"run {run.id} is parked: {message}")
        return True

    def keep_apart(self, run: Run, others: Iterable[str]) -> bool:
        """Whether this process may die of the run, or of one of the `others`, and would take the rest down with it."""
        deaths = [self._deaths[other][1] for other in (run.id, *others) if other in self._deaths]
        return run.id in self._deaths and len(deaths) > 1 and max(deaths) >= _SUSPECT

    def forget(self, run_id: str) -> None:
        """Its life is over."""
        self._deaths.pop(run_id, None)
