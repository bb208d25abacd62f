"""Runs of which a worker's process may die: how often in a row their lives got nowhere, and with what they may run.

When a run is parked for it stands in `agentflow.engine.poison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
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
#: How many runs that are due are looked through for those that died with a process, before a run is parked.
_LOOKED_AT = 1000


@dataclass(slots=True)
class _Deaths:
    """Of a run whose last life died, as of an epoch."""

    epoch: int
    #: How many lives in a row got nowhere.
    lives: int
    #: When the last one of them began.
    last: float
    #: When its life in this process began; None before.
    began: float | None = None
    #: Since when it has been kept apart from others: when the last of those had begun.
    apart: float | None = None


class Suspects:
    """What a worker knows of the deaths of runs that it takes up."""

    def __init__(self, journal: Journal, options: Options, say: Callable[[str], None]) -> None:
        self._journal, self._options, self._say = journal, options, say
        #: Of runs whose last life died.
        self._deaths: dict[str, _Deaths] = {}
        #: When the last of the suspects had begun that died with a process, by the name of that process.
        self._latest: dict[str, float] = {}

    def fruitless(self, run: Run) -> int:
        """How many lives of the run in a row got nowhere, up to now."""
        if not run.owner or run.state not in (StateType.RUNNING, StateType.CANCELLING):
            self.forget(run.id)  # its last life did not die
            return 0
        known = self._deaths.get(run.id)
        if known is None or known.epoch != run.epoch:
            lives, last = fruitless_lives(self._journal, run), self._journal.lives(run.number)[-1].began
            known = self._deaths[run.id] = _Deaths(run.epoch, lives, last)
            if lives >= _SUSPECT:
                self._latest[run.owner] = max(last, self._latest.get(run.owner, last))
        return known.lives

    def parks(self, flow: Flow[..., Any], run: Run) -> bool:
        """Whether a run takes its processes down with it: then it ends, until a person has it retried."""
        lives, most = self.fruitless(run), self._options.settings.max_crashes
        if not most or lives < most or self._died_of_another(run):
            return False
        with suppress(RunOwnedError, RunFinishedError):  # somebody else was faster
            message = flow.park(run, lives, journal=self._journal, options=self._options)
            if message:
                self._say(f"run {run.id} is parked: {message}")
        return True

    def _died_of_another(self, run: Run) -> bool:
        """Whether another suspect was begun beside it, in its last life, when it had lived there for a lease already.

        Whichever of the two is looked at first.
        """
        last = self._deaths[run.id].last
        for other in self._journal.due_runs(self._options.clock(), limit=_LOOKED_AT):
            if other.owner == run.owner:
                self.fruitless(other)
        return self._latest.get(run.owner, last) >= last + self._options.settings.lease

    def keep_apart(self, run: Run, others: Iterable[str]) -> bool:
        """Whether this process may die of the run, or of one of the `others`, and would take the rest down with it.

        But for no longer than a lease from when the others had begun: what a process dies of, it mostly dies of at
        once, and nobody waits for ever.
        """
        known = self._deaths.get(run.id)
        if known is None:
            return False
        around = [found for other in others if (found := self._deaths.get(other)) is not None]
        if not around or max(known.lives, *(other.lives for other in around)) < _SUSPECT:
            known.apart = None
            return False
        if known.apart is None:
            began = [other.began for other in around if other.began is not None]
            if len(began) < len(around):  # one of them is about to begin
                return True
            known.apart = max(began)
        if self._options.clock() < known.apart + self._options.settings.lease:
            return True
        known.apart = None
        return False

    def begin(self, run_id: str) -> None:
        """A life of the run begins in this process."""
        known = self._deaths.get(run_id)
        if known is not None:
            known.began = self._options.clock()

    def forget(self, run_id: str) -> None:
        """Its life is over."""
        self._deaths.pop(run_id, None)
