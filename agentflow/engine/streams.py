"""Iterators over what a generator yields inside of a flow: lazy, and no business of whoever consumes them.

The engine's coroutine for such a call stops at each item (`Emit`) and is run on when the consumer asks for the next. It
runs in a context of its own, so that the body's calls belong to the body, and the consumer's to the consumer.
What is recorded of the items is the business of `agentflow.engine.generators`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Literal, NamedTuple, Protocol, cast

from agentflow.engine.context import CURRENT
from agentflow.errors import MissingContextError, Unwinding


class Push(NamedTuple):
    """What a consumer does to a generator."""

    how: Literal["send", "throw", "close"]
    value: Any = None


START = Push("send")
CLOSE = Push("close")


class Emit:
    """Awaited by the engine to hand an item to the consumer; gives what the consumer does next."""

    __slots__ = ("item",)

    def __init__(self, item: Any) -> None:
        self.item = item

    def __await__(self) -> Generator[Emit, Push, Push]:
        return (yield self)


class AsyncCourse(Protocol):
    """What an `AsyncStream` stands on."""

    over: bool
    asked: bool
    cut: bool

    @property
    def started(self) -> bool:
        """Whether an item has been asked for."""
        ...

    def is_idle(self) -> bool:
        """Whether there is nothing to close."""
        ...

    def refuse(self) -> None:
        """Raise what a consumer is told whose flow has ended before he did."""
        ...

    async def advance(self, push: Push) -> Any:
        """The next item. Raises StopAsyncIteration at the end."""
        ...

    def abandoned(self) -> None:
        """Nobody can ask for another item."""
        ...


class Course:
    """An engine coroutine that is run on from item to item."""

    def __init__(
        self,
        name: str,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        abandon: Callable[[Course], None],
        kept: set[Course],
    ) -> None:
        self.name = name
        self._begin = begin
        #: Those of the run that are under way: none is collected as garbage in the middle of something.
        self._kept = kept
        #: Called once when nobody can ask for another item, and it has not ended.
        self._abandon = abandon
        self._context = Context()
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self.over = False
        #: Its run ended first.
        self.cut = False
        #: Somebody waits for its next item.
        self.asked = False
        #: Why it can give nothing more.
        self.ended: Callable[[], bool] = bool
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def started(self) -> bool:
        """Whether an item has been asked for."""
        return self._coroutine is not None

    def run_on(self, how: Literal["send", "throw"], value: Any) -> Any:
        """Run the coroutine to its next stop: an `Emit`, or (async) something to wait for."""
        if self._coroutine is None:
            if self.ended():
                self._refuse()
            self._context = copy_context()
            self._coroutine = self._begin()
            self._kept.add(self)
            value = None
        elif how == "send" and isinstance(value, Push) and self.ended() and CURRENT.get() is None:
            self._refuse()
        try:
            return self._context.run(getattr(self._coroutine, how), value)
        except BaseException:
            self._leave()
            raise

    def _refuse(self) -> None:
        self.drop()
        self.refuse()

    def refuse(self) -> None:
        """Raise what a consumer is told whose flow has ended before he did."""
        message = f"{self.name} belongs to a flow that has ended; consume what it yields inside of the flow"
        raise MissingContextError(message)

    def in_context(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something of the body's."""
        return self._context.run(function, *args)

    async def advance(self, push: Push) -> Any:
        """The next item of an async course. Raises StopAsyncIteration at its end."""
        self.loop = asyncio.get_running_loop()
        return await Stretch(self, push)

    def is_idle(self) -> bool:
        """Whether there is nothing to close; a course of a run that has ended is let go of."""
        if self.over or not self.started or (self.ended() and CURRENT.get() is None):
            self.drop()
        return self.over

    def finish(self) -> None:
        """Run a sync course to its end as if it had been closed here; how it ended is in the journal."""
        with suppress(Exception, Unwinding):
            while True:
                self.run_on("send", CLOSE)

    def drop(self) -> None:
        """Let go of what is under way; nothing is recorded."""
        self.cut = not self.over
        self._leave()
        if self._coroutine is not None:
            with suppress(Exception, Unwinding):
                self._context.run(self._coroutine.close)

    def _leave(self) -> None:
        self.over = True
        self._kept.discard(self)

    def abandoned(self) -> None:
        """Nobody can ask for another item."""
        if self.started and not self.over and not self.asked:
            self._abandon(self)


class SyncStream(Generator[Any, Any, Any]):
    """The items of a generator, as Python's own generators give them."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def send(self, value: Any, /) -> Any:
        """Run the body on; `value` is what its ``yield`` gives."""
        if not self._course.started and value is not None:
            message = "can't send non-None value to a just-started generator"
            raise TypeError(message)
        return self._go(Push("send", value))

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> Any:
        """Raise an exception where the body stands."""
        error = _raised(kind, value, trace)
        if self._course.over or not self._course.started:
            self._course.over = True
            raise error
        return self._go(Push("throw", error))

    def close(self) -> None:
        """End the body where it stands; what it has yielded so far is recorded."""
        if self._course.is_idle():
            return
        with suppress(StopIteration):
            while True:  # a retry of a body that failed when it was closed stops at its first item
                self._go(CLOSE)

    def _go(self, push: Push) -> Any:
        course = self._course
        if course.cut:
            course.refuse()
        if course.over:
            raise StopIteration
        if course.asked:
            message = "generator already executing"
            raise ValueError(message)
        course.asked = True
        try:
            return cast("Emit", course.run_on("send", push)).item
        finally:
            course.asked = False

    def __del__(self) -> None:
        self._course.abandoned()


class AsyncStream(AsyncGenerator[Any, Any]):
    """The items of an async generator."""

    def __init__(self, course: AsyncCourse) -> None:
        self._course = course

    async def asend(self, value: Any, /) -> Any:
        """Run the body on; `value` is what its ``yield`` gives."""
        if not self._course.started and value is not None:
            message = "can't send non-None value to a just-started async generator"
            raise TypeError(message)
        return await self._go(Push("send", value))

    async def athrow(self, kind: Any, value: Any = None, trace: Any = None, /) -> Any:
        """Raise an exception where the body stands."""
        error = _raised(kind, value, trace)
        if self._course.over or not self._course.started:
            self._course.over = True
            raise error
        return await self._go(Push("throw", error))

    async def aclose(self) -> None:
        """End the body where it stands; what it has yielded so far is recorded."""
        if self._course.is_idle():
            return
        with suppress(StopAsyncIteration):
            while True:
                await self._go(CLOSE)

    async def _go(self, push: Push) -> Any:
        course = self._course
        if course.cut:
            course.refuse()
        if course.over:
            raise StopAsyncIteration
        if course.asked:
            message = "anext(): asynchronous generator is already running"
            raise RuntimeError(message)
        course.asked = True
        try:
            return await course.advance(push)
        finally:
            course.asked = False

    def __del__(self) -> None:
        self._course.abandoned()


class Stretch:
    """Awaited: runs an async course on to its next item; what it has to wait for, its consumer waits for."""

    __slots__ = ("_course", "_push")

    def __init__(self, course: Course, push: Push) -> None:
        self._course, self._push = course, push

    def __await__(self) -> Generator[Any, Any, Any]:
        how: Literal["send", "throw"] = "send"
        value: Any = self._push
        while True:
            try:
                stop = self._course.run_on(how, value)
            except StopIteration:
                raise StopAsyncIteration from None
            if isinstance(stop, Emit):
                return stop.item
            try:
                how, value = "send", (yield stop)
            except BaseException as error:
                how, value = "throw", error


def _raised(kind: Any, value: Any, trace: Any) -> BaseException:
    """The exception that ``throw`` was given, in any of its forms."""
    if value is None:
        value = kind() if isinstance(kind, type) else kind
    return value.with_traceback(trace) if trace is not None else value


#: What is consumed where it is returned.
LAZY = frozenset({GeneratorType, AsyncGeneratorType, SyncStream, AsyncStream})
