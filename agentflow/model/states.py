"""States of a run, and the one table of legal transitions between them."""

from __future__ import annotations

from enum import StrEnum


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
    StateType.PENDING: frozenset({StateType.RUNNING, StateType.CANCELLED, StateType.CRASHED}),
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
