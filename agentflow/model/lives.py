"""Lives of a run: each claim of it, from who made it to how it ended; and a run's descent from another one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentflow.model.states import StateType


class LifeEnd(StrEnum):
    """How a life ended."""

    RUNNING = "running"
    """It has not said so yet: it is under way, or its process died and nobody has claimed the run since."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"
    """The run left memory to wait."""
    INTERRUPTED = "interrupted"
    """Its process stopped and gave the run back."""
    CRASHED = "crashed"
    """Its process died, as whoever claimed the run next has found out; or the run ended so."""
    TAKEN_OVER = "taken_over"
    """Somebody took the run away from a live process."""


_ENDS = {
    StateType.COMPLETED: LifeEnd.COMPLETED,
    StateType.FAILED: LifeEnd.FAILED,
    StateType.CANCELLED: LifeEnd.CANCELLED,
    StateType.CRASHED: LifeEnd.CRASHED,
}


#: Said of a life whose process died while the run did not run.
WHILE_WAITING = "while it waited"


def waits(state: StateType) -> bool:
    """Whether nothing of a run in that state moves, so that the death of its process was not its doing."""
    return state in (StateType.PAUSED, StateType.PENDING)


def last_words(state: StateType) -> str:
    """What is said of a life whose process died while the run was in `state`."""
    return WHILE_WAITING if waits(state) else ""


def end_of(state: StateType) -> LifeEnd:
    """How a life ended that left its run in `state`."""
    return _ENDS.get(state, LifeEnd.SUSPENDED)


@dataclass(frozen=True, slots=True)
class Life:
    """One life. Times are seconds since the epoch."""

    run: int
    #: The epoch of its claim, which numbers a run's lives from 1.
    number: int
    began: float
    #: ``host:pid``.
    owner: str
    #: Who asked for it; empty = nobody, the run was recovered or woken.
    origin: str
    #: Of the code that it ran.
    fingerprint: str
    #: The sequence of the first row that could be its own.
    first: int
    ended: float | None = None
    end: LifeEnd = LifeEnd.RUNNING
    message: str = ""
    #: JSON: what became of the records that it found, and which of its failures ended the run.
    account: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a run comes from that began as a copy of another one, up to a step."""

    #: Id of the run that it was copied from.
    source: str
    #: Identity of the step from which on it goes its own way, hexadecimal, and its name.
    step: str
    name: str
    #: The last sequence that was taken over.
    taken: int
    #: It was given other parameters.
    changed: bool
    #: JSON: the side effects that the other run began from that step on.
    happened: bytes
