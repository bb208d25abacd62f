"""What a body returned, as the end of its step: states count as what they say, generators as lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, cast

from agentflow.engine.endings import Ending, was_not_made
from agentflow.engine.futures import TaskFuture, TaskFutureList
from agentflow.engine.resolving import resolved
from agentflow.engine.streams import AsyncStream, SyncStream
from agentflow.errors import UnfinishedRun
from agentflow.model.states import State, aggregate, is_state, value_in

if TYPE_CHECKING:
    from agentflow.engine.runtime import Runtime


async def consumed(value: Any, rt: Runtime) -> Any:
    """The items of a generator that a body returned; anything else as it is."""
    if isinstance(value, (GeneratorType, SyncStream)):
        return list(cast("Iterable[Any]", value))
    if isinstance(value, (AsyncGeneratorType, AsyncStream)):
        return await rt.awaited(_items(cast("AsyncIterator[Any]", value)))
    return value


async def _items(value: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in value]


def settled(value: Any) -> Any:
    """A returned value with its futures, which have ended, and states replaced; or one state that it all comes to."""
    if value.__class__ in (list, tuple, set, frozenset, TaskFutureList) and value:
        items: list[Any] = list(value)
        if all(isinstance(item, (State, TaskFuture)) for item in items):
            states: list[State[Any]] = [
                item if is_state(item) else cast("TaskFuture[Any]", item).state for item in items
            ]
            return aggregate(states, tuple(states) if isinstance(value, tuple) else states)
    ended: Any = value
    if isinstance(value, TaskFuture) and ended.failed() and was_not_made(ended.state):
        ended = ended.state
    if is_state(ended):
        return aggregate([ended]) if was_not_made(ended) else ended
    return resolved(ended)


def taken(state: State[Any], ending: Ending, name: str) -> Any:
    """The value of a returned state, which goes down in `ending`. Raises the exception of one that is no success."""
    if not state.is_final():
        message = (
            f"{name} returned the state {state!r}, which is not final, but whoever has returned has ended; "
            "to wait, use sleep(), wait_for_event() or request_input()"
        )
        raise UnfinishedRun(message) from state.error
    error = state.error
    if error is None:
        value = value_in(state.data)
        ending.state = replace(state, data=None)
        return value
    ending.state = state
    raise error
