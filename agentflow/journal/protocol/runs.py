"""Verbs of runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType


class RunFilter(NamedTuple):
    """Which runs to list, newest first."""

    limit: int = 50
    states: tuple[StateType, ...] = ()
    flow: str = ""
    #: Only runs with a smaller number: the last one of the page before.
    before: int | None = None
    #: Only runs whose id ends with this, among the newest 100,000.
    id_end: str = ""
    #: Only runs that this one has started.
    parent: str = ""
    #: Only runs that have all of these tags.
    tags: tuple[str, ...] = ()
    #: Only runs of this deployment.
    deployment: str = ""


class RunClaim(NamedTuple):
    """A run that a process would own."""

    run_id: str
    #: Of the code that will run it.
    fingerprint: str = ""
    #: Whether it is RUNNING then; else it waits to be.
    start: bool = True


class RunEnd(NamedTuple):
    """How a life of a run, in its epoch, ends; see `RunVerbs.set_state`."""

    number: int
    epoch: int
    state: StateType
    message: str = ""
    result: bytes | None = None
    error: bytes | None = None
    account: bytes | None = None


@runtime_checkable
class EndsRunsTogether(Protocol):
    """A store in which the ends of several lives cost little more than that of one."""

    def end_runs(self, ends: Sequence[RunEnd]) -> list[BaseException | None]:
        """Like `RunVerbs.set_state` for each, released, in one durable commit; with what each one was refused with."""
        ...


class RunVerbs(Protocol):
    """Runs: made, claimed, moved from state to state, listed."""

    def create_run(
        self, new: NewRun, *, state: StateType = StateType.RUNNING, owned: bool | None = None
    ) -> Run:
        """Store a new run; `owned`: it belongs to this process, default: only if it is RUNNING at once.

        Raises `Cancelling` where its parent was asked to stop, `DeploymentNotFoundError` and `DeploymentPausedError`
        where its deployment is gone, or takes no new runs.
        """
        ...

    def claim_run(
        self,
        run_id: str,
        *,
        take_over: bool = False,
        start: bool = True,
        fingerprint: str = "",
        origin: Origin | None = None,
    ) -> Run:
        """Own a run that has not ended, with a new epoch, and begin its next life.

        It is RUNNING, unless `start` is False: then it waits to be. `fingerprint`: of the code that will run;
        `origin`: who asked for this life, None = nobody in particular.

        Raises `RunNotFoundError`, `RunFinishedError`, `RunOwnedError` (a live process owns it; unless `take_over`).
        """
        ...

    def claim_runs(self, wanted: Sequence[RunClaim]) -> list[Run]:
        """Own those of these runs that nobody owns and that have not ended, all in one transaction; oldest first.

        Each as by `claim_run`, and named once. What somebody else owns, or is just claiming, is left out and not
        waited for.
        """
        ...

    def bind_run(
        self, number: int, epoch: int, parameters: bytes, *, name: str = "", on_cancellation: bool = False
    ) -> None:
        """Store a run's arguments as its flow has understood those that were given by name.

        `name`: how it is called from now on, "" = as it was; `on_cancellation`: see `NewRun`. Raises `Fenced`.
        """
        ...

    def release_run(self, run: Run) -> None:
        """Own it no longer. Without effect where it was taken over.

        One that was asked to stop has stopped then; unless a transaction is to be undone, or hooks on its cancellation
        are to run: it stays CANCELLING, and due.
        """
        ...

    def set_state(
        self,
        number: int,
        epoch: int,
        state: StateType,
        *,
        message: str = "",
        result: bytes | None = None,
        error: bytes | None = None,
        durable: bool = True,
        release: bool = False,
        account: bytes | None = None,
    ) -> None:
        """Change a run's state; `release`: and own it no longer. A final state or `release` ends the life.

        `account` is what the life has to say of the records that it found.

        One that was asked to stop does not go back to RUNNING or PAUSED: it is CANCELLING, and CANCELLED once it is
        released and no transaction is to be undone; whoever releases it so runs its hooks. One that fails before
        it has run began when it ended.
        Illegal transitions are refused with ValueError, stale epochs with `Fenced`.
        """
        ...

    def add_origin(self, run_id: str, origin: Origin) -> None:
        """Remember that somebody else has asked for the run, too."""
        ...

    def request_cancel(self, run_id: str, message: str) -> Run:
        """Ask a run to stop, and all that it has started, whole: CANCELLED at once where nobody runs it.

        Where somebody does, it is CANCELLING until its owner has seen it; and where a transaction is to be undone, or
        it has begun and its flow has hooks on its cancellation, until somebody has run it again (it is due). A second
        request changes nothing then. Raises `RunNotFoundError`, `RunFinishedError`.
        """
        ...

    def get_run(self, run_id: str) -> Run | None:
        """The run of that id."""
        ...

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        """Runs, newest first."""
        ...

    def due_runs(
        self, now: float, *, after: int = 0, limit: int | None = None, without: Collection[str] = ()
    ) -> list[Run]:
        """Runs that nobody owns and that can move: pending, orphaned by a crash, or waiting with their wait over.

        One whose process died while it was said to wait is orphaned, too: another branch of it may have moved.

        Oldest first; at most `limit`, of those whose number is greater than `after`. `without`: names of flows whose
        runs are not looked at.
        """
        ...

    def is_owned(self, run: Run) -> bool:
        """Whether a live process owns the run."""
        ...
