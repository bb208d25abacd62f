"""A coroutine that hands out parts of its work before it ends.

A streamed answer reaches the caller while the step that receives it is still running. `Relay` drives such a step from
inside the caller's own ``await`` (or, for blocking callers, from `agentflow.engine.runtime.drive`): no task, no thread,
no queue. What the step awaits goes to the caller's event loop; what it hands out goes to the caller.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any, Generic, TypeVar

T = TypeVar("T")
PartT = TypeVar("PartT")


class _Part:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@types.coroutine
def hand_out(value: Any) -> Generator[Any, Any, None]:
    """Give `value` to whoever drives the enclosing `Relay`; return when the next part is asked for."""
    yield _Part(value)


class Abandoned(BaseException):
    """Nobody wants the rest; unwinds the coroutine."""


class Relay(Generic[PartT, T]):
    """Drives a coroutine of the engine that hands out parts (`PartT`) and returns a value (`T`).

    It runs in a context of its own: what it sets in context variables is not seen by the caller between two parts.
    """

    result: T

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._context = copy_context()
        self.is_over = False

    @types.coroutine
    def pull(self) -> Generator[Any, Any, PartT | None]:
        """The next part; None when the coroutine has ended, with its value in `result`. Raises what it raised."""
        return (yield from self._advance(self._coroutine.send, None))

    @types.coroutine
    def abandon(self) -> Generator[Any, Any, None]:
        """End the coroutine early, if it still runs: `Abandoned` is raised where it handed out its last part."""
        if not self.is_over:
            try:
                yield from self._advance(self._coroutine.throw, Abandoned())
            except Abandoned:
                return

    def _advance(self, step: Callable[[Any], Any], argument: Any) -> Generator[Any, Any, PartT | None]:
        while True:
            try:
                item = self._context.run(step, argument)
            except StopIteration as stop:
                self.is_over, self.result = True, stop.value
                return None
            except BaseException:
                self.is_over = True
                raise
            if isinstance(item, _Part):
                return item.value
            try:
                step, argument = self._coroutine.send, (yield item)
            except BaseException as error:  # noqa: BLE001 - a cancellation belongs to what is being awaited
                step, argument = self._coroutine.throw, error

    def __del__(self) -> None:
        if not self.is_over:
            self._context.run(self._coroutine.close)  # context variables must be reset where they were set
