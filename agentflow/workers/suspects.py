"""Runs of which a worker's process may die: how often in a row their lives got nowhere, and with what they may run.

When a run is parked for it stands in `agentflow.engine.poison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

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


class _Deaths(NamedTuple):
    #: Of the run, when it was looked at, and the time of that.
    epoch: int
    #: How many lives in a row got nowhere.
    lives: int
    seen: float


class Suspects:
    """What a worker knows of the deaths of runs that it takes up."""

    def __init__(self, journal: Journal, options: Options, say: Callable[[str], None]) -> None:
        self._journal, self._options, self._say = journal, options, say
        #: Of runs whose last life died.
        self._deaths: dict[str, _Deaths] = {}

    def fruitless(self, run: Run) -> int:
        """How many lives of the run in a row got nowhere, up to now."""
        if not run.owner or run.state not in (StateType.RUNNING, StateType.CANCELLING):
            self.forget(run.id)  # its last life did not die
            return 0
        known = self._deaths.get(run.id)
        if known is None or known.epoch != run.epoch:
            lives = fruitless_lives(self._journal, run)
            known = self._deaths[run.id] = _Deaths(run.epoch, lives, self._options.clock())
        return known.lives

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
        """Whether this process may die of the run, or of one of the `others`, and would take the rest down with it.

        But for no longer than a lease: what a process dies of, it mostly dies of at once, and nobody waits for ever.
        """
        since = self._options.clock() - self._options.settings.lease
        known = [(other, self._deaths[other]) for other in (run.id, *others) if other in self._deaths]
        lives = {other: deaths.lives for other, deaths in known if deaths.seen > since}
        return run.id in lives and len(lives) > 1 and max(lives.values()) >= _SUSPECT

    def forget(self, run_id: str) -> None:
        """Its life is over."""
        self._deaths.pop(run_id, None)
