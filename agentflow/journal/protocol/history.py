"""Verbs of a run's history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentflow.model.lives import Fork, Life
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.steps import StepRow


class HistoryVerbs(Protocol):
    """Lives, ended runs that go on, and runs that begin as copies. Lives begin and end with the verbs of runs."""

    def lives(self, number: int) -> list[Life]:
        """A run's lives, in their order."""
        ...

    def reopen_run(
        self, number: int, epoch: int, rows: Sequence[StepRow] = (), *, origin: Origin | None = None
    ) -> Run:
        """Make an ended run PENDING again, and store `rows`, which say what it is to do again.

        It is nobody's then. `origin` is remembered. Raises `Fenced` where it has moved since `epoch`, `UsageError`
        where it has not ended, or has completed.
        """
        ...

    def fork_run(self, new: NewRun, fork: Fork, rows: Sequence[StepRow], origins: Sequence[Origin]) -> Run:
        """Store a PENDING run that begins with `rows` of another one, renumbered. Its origins are added to `new`'s.

        Raises `RunNotFoundError`, and `UsageError` where a live process owns the other run.
        """
        ...

    def forked(self, numbers: Sequence[int]) -> list[int]:
        """Which of these runs began as copies."""
        ...

    def fork_of(self, number: int) -> Fork | None:
        """Where the run was copied from; None for one that began with nothing."""
        ...
