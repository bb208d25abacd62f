"""States: the one table of types and legal transitions, and `State`, one of them with what it carries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeGuard, TypeVar, cast, overload

from agentflow.errors import (
    CrashedRun,
    FailedRun,
    PausedRun,
    RunCancelled,
    UnfinishedRun,
    UnreadableResult,
)

R_co = TypeVar("R_co", covariant=True)


class StateType(StrEnum):
    """What a run is doing, in Prefect's terms."""

    SCHEDULED = "SCHEDULED"
    """Created for later; nobody has started it."""
    PENDING = "PENDING"
    """Accepted; waits for somebody to run it."""
    RUNNING = "RUNNING"
    """Somebody runs it (or did, until a crash: a running run without an owner is recovered)."""
    PAUSED = "PAUSED"
    """Waits for a person, an event or a timer; it may have left memory."""
    CANCELLING = "CANCELLING"
    """Asked to stop; stops at its next step."""
    COMPLETED = "COMPLETED"
    """Ended with a result."""
    FAILED = "FAILED"
    """Ended with an exception."""
    CANCELLED = "CANCELLED"
    """Ended because somebody asked it to."""
    CRASHED = "CRASHED"
    """Ended by something that is neither a result nor an ordinary exception."""

    @property
    def is_final(self) -> bool:
        """Whether a run in this state has ended: it moves again only where somebody has it retried."""
        return self in FINAL


FINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})
_LIVE = frozenset({StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING}) | FINAL

TRANSITIONS: dict[StateType, frozenset[StateType]] = {
    StateType.SCHEDULED: frozenset({StateType.PENDING, StateType.RUNNING, StateType.CANCELLED}),
    StateType.PENDING: FINAL - {StateType.COMPLETED} | {StateType.RUNNING},
    StateType.RUNNING: _LIVE,
    StateType.PAUSED: _LIVE,
    StateType.CANCELLING: FINAL | {StateType.CANCELLING},
    StateType.COMPLETED: frozenset(),
    # an ended run moves again only where somebody asks for it: the journal's `reopen_run` alone goes these ways
    StateType.FAILED: frozenset({StateType.PENDING}),
    StateType.CANCELLED: frozenset({StateType.PENDING}),
    StateType.CRASHED: frozenset({StateType.PENDING}),
}


def is_legal(before: StateType, after: StateType) -> bool:
    """Whether a run may go from `before` to `after`."""
    return after in TRANSITIONS[before]


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, eq=False)
class State(Generic[R_co]):
    """How far a run, a task or a sub-flow has come: what a call with ``return_state=True`` gives, and hooks see.

    A task or flow may return one; it then ends in exactly that state. Whoever receives the state of a failure has
    looked at it: it fails nothing any more by itself.
    """

    type: StateType
    #: More exactly than the type says: ``Cached``, ``TimedOut``, ``NotReady``, ``Retrying``, or a name of yours.
    name: str = ""
    message: str = ""
    #: The value; of a failure its exception, or whatever a returned state carried; of several states those states.
    data: R_co | Any = None
    timestamp: dt.datetime = field(default_factory=_now)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.type.value.title())

    def __eq__(self, other: object) -> bool:
        """Equal whenever they were reached."""
        if not isinstance(other, State):
            return NotImplemented
        mine = (self.type, self.name, self.message)
        return mine == (other.type, other.name, other.message) and bool(self.data == cast("Any", other).data)

    def __hash__(self) -> int:
        return hash((self.type, self.name, self.message))

    # -- questions, in Prefect's words
    def is_scheduled(self) -> bool:
        """Whether it is to start later."""
        return self.type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        """Whether it has not begun."""
        return self.type is StateType.PENDING

    def is_running(self) -> bool:
        """Whether it runs."""
        return self.type is StateType.RUNNING

    def is_paused(self) -> bool:
        """Whether it waits."""
        return self.type is StateType.PAUSED

    def is_cancelling(self) -> bool:
        """Whether it was asked to stop."""
        return self.type is StateType.CANCELLING

    def is_completed(self) -> bool:
        """Whether it ended with a value."""
        return self.type is StateType.COMPLETED

    def is_failed(self) -> bool:
        """Whether it ended with an exception."""
        return self.type is StateType.FAILED

    def is_cancelled(self) -> bool:
        """Whether it was stopped."""
        return self.type is StateType.CANCELLED

    def is_crashed(self) -> bool:
        """Whether it ended by something that is no ordinary exception."""
        return self.type is StateType.CRASHED

    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.type.is_final

    # -- what it carries
    @property
    def error(self) -> BaseException | None:
        """The exception that stands for a state other than COMPLETED: the one it carries, or one of its kind."""
        if self.is_completed():
            return None
        return carried_error(self.data) or _KIND_OF_ERROR.get(self.type, UnfinishedRun)(self._text())

    def _text(self) -> str:
        if isinstance(self.data, str) and self.is_final():
            return self.data
        return f"{self.name}: {self.message}" if self.message else self.name

    @overload
    def result(self, raise_on_failure: Literal[True] = True) -> R_co: ...  # noqa: FBT002 - Prefect's signature
    @overload
    def result(self, raise_on_failure: bool) -> R_co | Any: ...  # noqa: FBT001
    def result(self, raise_on_failure: bool = True) -> R_co | Any:  # noqa: FBT001, FBT002
        """The value; it is here already, nothing is waited for.

        Raises the exception of a failure - the first one, where it carries several states - or, with
        ``raise_on_failure=False``, returns it. Raises `UnfinishedRun` of a state that is not final.
        """
        error = self.error
        if error is None:
            return value_in(self.data)
        if raise_on_failure or not self.is_final():
            raise error
        return error if self.data is None or isinstance(self.data, str) else self.data

    def __repr__(self) -> str:
        return f"{self.name}(type={self.type.value}" + (
            f", message={self.message!r})" if self.message else ")"
        )


_KIND_OF_ERROR: dict[StateType, type[FailedRun | CrashedRun | RunCancelled | PausedRun | UnfinishedRun]] = {
    StateType.FAILED: FailedRun,
    StateType.CRASHED: CrashedRun,
    StateType.CANCELLED: RunCancelled,
    StateType.PAUSED: PausedRun,
}


def is_state(value: object) -> TypeGuard[State[Any]]:
    """Whether it is a state."""
    return isinstance(value, State)


def carried_error(data: object) -> BaseException | None:
    """The exception among what a state carries: itself, a state's, or the first one of several states."""
    if isinstance(data, BaseException):
        return data
    if is_state(data):
        return data.error
    return next((error for state in states_in(data) if (error := state.error) is not None), None)


def value_in(data: Any) -> Any:
    """What a completed state gives: its value, or the values of the states that it carries."""
    if is_state(data):
        return data.result()
    if isinstance(data, UnreadableResult):
        raise data
    states = states_in(data)
    if not states:
        return data
    values: list[Any] = [state.result() for state in states]
    return tuple(values) if isinstance(data, tuple) else values


def states_in(value: object) -> list[State[Any]]:
    """The states in a list, tuple or set of nothing but states; empty for anything else."""
    if value.__class__ not in (list, tuple, set, frozenset) or not value:
        return []
    items = list(cast("Iterable[Any]", value))
    return items if all(is_state(item) for item in items) else []


def aggregate(states: Sequence[State[Any]], data: Any = None) -> State[Any]:
    """One state for several: any cancelled > any paused > any not completed > all completed."""
    total = len(states)

    def share(count: int, what: str) -> str:
        return f"{count}/{total} states {what}."

    data = list(states) if data is None else data
    if all(state.is_completed() for state in states):
        return State(StateType.COMPLETED, message="All states completed.", data=data)
    cancelled = sum(state.is_cancelled() for state in states)
    paused = sum(state.is_paused() for state in states)
    if cancelled:
        return State(StateType.CANCELLED, message=share(cancelled, "cancelled"), data=data)
    if paused:
        return State(StateType.PAUSED, message=share(paused, "paused"), data=data)
    failed = sum(state.is_final() and not state.is_completed() for state in states)
    unfinished = sum(not state.is_final() for state in states)
    message = share(failed, "failed") if failed else share(unfinished, "are not final")
    return State(StateType.FAILED, message=message, data=data)
