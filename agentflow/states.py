"""States as users make and ask for them; each function makes a `State` of the type that it is named after.

``return Completed(data=x, message="nothing new")`` or ``return Failed(message="empty file")`` ends a task or flow in
that state. The table of types and transitions stands in `agentflow.model.states`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from agentflow.model.states import State, StateType, aggregate, is_legal

__all__ = [
    "Cancelled", "Cancelling", "Completed", "Crashed", "Failed", "Paused", "Pending", "Running", "Scheduled", "State",
    "StateType", "aggregate", "is_legal",
]  # fmt: skip

T = TypeVar("T")


def Completed(*, data: T = None, message: str = "", name: str = "Completed") -> State[T]:  # noqa: N802 - Prefect's name
    """It ended with a value, `data`."""
    return State(StateType.COMPLETED, name, message, data)


def Failed(*, data: Any = None, message: str = "", name: str = "Failed") -> State[Any]:  # noqa: N802
    """It failed; `data` is the exception, if there is one. Counts as a failure: it is retried, and raises."""
    return State(StateType.FAILED, name, message, data)


def Cancelled(*, data: Any = None, message: str = "", name: str = "Cancelled") -> State[Any]:  # noqa: N802
    """It was stopped. Not retried."""
    return State(StateType.CANCELLED, name, message, data)


def Crashed(*, data: Any = None, message: str = "", name: str = "Crashed") -> State[Any]:  # noqa: N802
    """It was ended by something that is no ordinary exception. Not retried."""
    return State(StateType.CRASHED, name, message, data)


def Cancelling(*, message: str = "", name: str = "Cancelling") -> State[Any]:  # noqa: N802
    """It was asked to stop and has not yet."""
    return State(StateType.CANCELLING, name, message)


def Paused(*, message: str = "", name: str = "Paused") -> State[Any]:  # noqa: N802
    """It waits for a person, an event or a timer."""
    return State(StateType.PAUSED, name, message)


def Pending(*, message: str = "", name: str = "Pending") -> State[Any]:  # noqa: N802
    """It has not begun."""
    return State(StateType.PENDING, name, message)


def Running(*, message: str = "", name: str = "Running") -> State[Any]:  # noqa: N802
    """It runs."""
    return State(StateType.RUNNING, name, message)


def Scheduled(*, message: str = "", name: str = "Scheduled") -> State[Any]:  # noqa: N802
    """It is to start later."""
    return State(StateType.SCHEDULED, name, message)
