"""The state in which a call ended, the same in every life: what is told of it, and how it is kept in the journal.

A plain end needs nothing of this. It is for whoever asks for a call's state, and for ends that say more than a value or
an exception does.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, cast

from agentflow.engine.streams import LAZY
from agentflow.errors import CodecError
from agentflow.model.states import State, StateType, is_state
from agentflow.model.steps import StepKind
from agentflow.payloads.failures import encode_failure, state_of_failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentflow.engine.records import Record
    from agentflow.payloads.codec import Codec

#: Types of what a body returns that may be more than a value; see `may_say_more`.
LOOKED_AT = frozenset({State, list, tuple, set, frozenset, dict, *LAZY})
_COLLECTIONS = (list, tuple, set, frozenset)


class Ending:
    """How a call ended, for whoever wants its state: filled in by the engine in every life, also from the journal."""

    __slots__ = ("at", "attempt", "recalled", "state")

    def __init__(self) -> None:
        #: What says more than the value or exception: a returned state, ``Cached``, ``TimedOut``, ``NotReady``.
        self.state: State[Any] | None = None
        #: When, seconds since the epoch; 0 = the engine does not know.
        self.at = 0.0
        #: The attempt that it was, counted from 0; known where there are hooks.
        self.attempt = 0
        #: An earlier life has put it into the journal.
        self.recalled = False

    def of_value(self, value: Any) -> State[Any]:
        """The state of a call that gave `value`."""
        known = self.state or _COMPLETED
        return State(known.type, known.name, known.message, value, self._moment())

    def of_failure(self, error: BaseException, kind: StateType = StateType.FAILED) -> State[Any]:
        """The state of a call that raised `error`; of type `kind` where nothing else was said of it."""
        known = self.state or State(kind, message=said(error))
        carried = error if known.data is None or isinstance(known.data, BaseException) else known.data
        return State(known.type, known.name, known.message, carried, self._moment())

    def _moment(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.at, dt.UTC) if self.at else dt.datetime.now(dt.UTC)

    # -- in the journal
    def detail(self) -> dict[str, Any] | None:
        """What the row of a value says of its state; None where the value says it all."""
        state = self.state
        return None if state is None else {"state": {"name": state.name, "message": state.message}}

    def encoded(self, codec: Codec, error: BaseException) -> tuple[bytes, BaseException]:
        """The bytes of a failure, and what every life raises for it. What cannot be stored is the failure, then."""
        if self.state is not None and self.state.is_completed():
            self.state = None  # it returned one, with a value that cannot be stored
        try:
            data, shown = encode_failure(codec, error, self.state)
        except CodecError as broken:
            self.state = None
            return encode_failure(codec, broken)
        self.state = state_of_failure(codec, data)
        return data, shown

    def recall(self, codec: Codec, record: Record) -> None:
        """Take it from a step's record."""
        self.at, self.recalled = record.row.ended or 0.0, True
        self.state = None
        if record.event == "cached":
            self.state = CACHED
        elif record.event == "completed":
            told = record.details().get("state")
            if told is not None:
                self.state = State(StateType.COMPLETED, told["name"], told["message"])
        elif record.value is not None:
            self.state = state_of_failure(codec, record.value)


def said(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"


_COMPLETED = State[Any](StateType.COMPLETED)
CACHED = State[Any](StateType.COMPLETED, "Cached")


def timed_out(error: BaseException) -> State[Any]:
    """The state of a call whose time was up."""
    return State(StateType.FAILED, "TimedOut", said(error))


def not_ready(error: BaseException) -> State[Any]:
    """The state of a call that was not made, because of what it waited for: it has not begun."""
    return State(StateType.PENDING, "NotReady", said(error), error)


def was_not_made(state: State[Any]) -> bool:
    """Whether it is the state of a call that was not made."""
    return state.is_pending() and isinstance(state.data, BaseException)


def may_say_more(value: Any, kind: StepKind) -> bool:
    """Whether a returned value (of a type that is `LOOKED_AT`) is more than a value."""
    if isinstance(value, dict):
        return kind is StepKind.FLOW
    if isinstance(value, _COLLECTIONS):
        first = next(iter(cast("Iterable[Any]", value)), None)
        return kind is StepKind.FLOW or is_state(first)
    return True
