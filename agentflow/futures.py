"""Which of several ends first: `first`, `as_completed`, `wait`; and futures, as users import them.

What is found out is recorded, because it is chance: a replay takes the same one, whichever would end first then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from agentflow.background import RunFuture, RunFutureList
from agentflow.engine.context import CURRENT, Frame, current_frame
from agentflow.engine.futures import TaskFuture, TaskFutureList, ends_of
from agentflow.engine.policy import StepPolicy
from agentflow.engine.runtime import INLINE, LOOP, drive, running_loop
from agentflow.engine.step import Call, execute, foreseen
from agentflow.engine.submission import Work, launch_on_loop, loop_for
from agentflow.errors import ColourError, UsageError
from agentflow.model.steps import StepKind
from agentflow.payloads.digests import canonical
from agentflow.waits import Waiting

__all__ = [
    "RunFuture",
    "RunFutureList",
    "TaskFuture",
    "TaskFutureList",
    "Winner",
    "as_completed",
    "first",
    "wait",
]

T = TypeVar("T")
R = TypeVar("R")


class Winner(NamedTuple):
    """What ended first."""

    #: Its position, or its name where it was given by name.
    which: int | str
    value: Any


class DoneAndNotDone(NamedTuple, Generic[T]):
    """The futures that have ended, and those that have not, each in the order in which they were given."""

    done: list[TaskFuture[T]]
    not_done: list[TaskFuture[T]]


class _Choice:
    """A step whose value is what chance says; found out outside of the step, so that waiting for it is no execution."""

    def __init__(self, name: str, *identity: Any) -> None:
        frame = current_frame(f"{name}()")
        policy = StepPolicy(name=name, kind=StepKind.RECORDED, plain=True)
        data, _ = canonical([name, *identity])
        self.call = Call(
            frame, policy, frame.run.hasher.digest(data), self._found, (), {}, dict, lambda _: ((), {})
        )
        self.value: Any = None

    def _found(self) -> Any:
        return self.value

    async def _found_async(self) -> Any:
        return self.value

    def foreseen(self) -> Any:
        """What an earlier life found out; None where nothing is recorded."""
        return foreseen(self.call, INLINE if running_loop() is None else LOOP)

    def record(self, value: Any) -> Any:
        """Record it, in a thread."""
        self.value = value
        return drive(execute(self.call, INLINE))

    async def record_async(self, value: Any) -> Any:
        """Record it, on a loop."""
        self.value, self.call.fn = value, self._found_async
        return await execute(self.call, LOOP)


class First(Coroutine[Any, Any, Winner]):
    """A race that has been asked for: ``await`` it in an async flow, call ``result()`` in a sync one."""

    def __init__(self, runners: dict[int | str, Any]) -> None:
        self._runners = runners
        self._names = list(runners)
        self._choice = _Choice("first", [str(name) for name in runners])
        self._inner: Coroutine[Any, Any, Winner] | None = None

    # -- in a thread
    def result(self) -> Winner:
        """Block until one has ended; raises its exception if it failed. `ColourError` on a thread whose loop runs."""
        if running_loop() is not None:
            message = "first(...).result() would block this thread's event loop; `await first(...)` instead"
            raise ColourError(message)
        frame = current_frame("first()")
        works: dict[int, Work] = {}
        futures: list[TaskFuture[Any]] = []
        for position, runner in enumerate(self._runners.values()):
            if isinstance(runner, Waiting):
                works[position] = _submit(cast("Waiting[Any]", runner), frame)
                futures.append(works[position].future)
            elif isinstance(runner, TaskFuture):
                futures.append(cast("TaskFuture[Any]", runner))
            else:
                message = (
                    f"first() in a sync flow takes futures and waits, not {runner!r}; use task.submit(...)"
                )
                raise UsageError(message)
        position: int | None = self._choice.foreseen()
        if position is None:
            position = futures.index(next(ends_of(futures)))
        futures[position].wait()
        for other, work in works.items():
            work.future.seen = True
            if other != position:
                work.cancel()
                work.future.wait()
        self._choice.record(position)
        return Winner(self._names[position], futures[position].result())

    # -- on a loop
    async def _run(self) -> Winner:
        """Losers are cancelled after they were given what an earlier life recorded of them, for which they ask."""
        made: list[asyncio.Future[Any]] = []
        racing: list[asyncio.Future[Any]] = [_on_loop(runner, made) for runner in self._runners.values()]
        known: int | None = self._choice.foreseen()
        position = known
        try:
            if position is None:
                await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
                position = next(index for index, runner in enumerate(racing) if runner.done())
                await LOOP.settled(self._choice.call.frame.run)
            else:
                await asyncio.wait([racing[position]])
                self._choice.call.leaving = partial(_let_go, made)  # as it was when the choice was recorded
                await self._choice.record_async(position)
        finally:
            await _cancelled(made)
        if known is None:
            await self._choice.record_async(position)
        runner = list(self._runners.values())[position]
        return Winner(
            self._names[position], await (runner if isinstance(runner, TaskFuture) else racing[position])
        )

    def _started(self) -> Coroutine[Any, Any, Winner]:
        if self._inner is None:
            self._inner = self._run()
        return self._inner

    def __await__(self) -> Generator[Any, None, Winner]:
        return self._started().__await__()

    def send(self, value: Any, /) -> Any:
        """Part of being a coroutine."""
        return self._started().send(value)

    def throw(self, *error: Any) -> Any:
        """Part of being a coroutine."""
        return self._started().throw(*error)

    def close(self) -> None:
        """Part of being a coroutine."""
        if self._inner is not None:
            self._inner.close()


def _submit(waiting: Waiting[Any], frame: Frame) -> Work:
    """A wait of a sync flow, on the background loop."""
    run, call = frame.run, waiting.handed_over()
    work = Work("wait", run, lambda: call, copy_context(), loop=loop_for(run))
    launch_on_loop(work)
    return work


def _on_loop(runner: Any, made: list[asyncio.Future[Any]]) -> asyncio.Future[Any]:
    """Something to wait for on this loop; what has to be made for that is cancelled when the race is over."""
    if isinstance(runner, TaskFuture):
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        cast("TaskFuture[Any]", runner).wake(turn)
        return turn
    found: asyncio.Future[Any] = asyncio.ensure_future(cast("Awaitable[Any]", runner))
    if found is not runner:
        made.append(found)
        found.add_done_callback(_retrieve)
    return found


def _let_go(runners: list[asyncio.Future[Any]]) -> list[asyncio.Future[Any]]:
    """Cancel what has not ended; gives that."""
    left = [runner for runner in runners if not runner.done()]
    for runner in left:
        runner.cancel()
    return left


async def _cancelled(runners: list[asyncio.Future[Any]]) -> None:
    """Cancel what has not ended, and return when it has: nothing of a loser happens after the race."""
    left = _let_go(runners)
    if left:
        await asyncio.wait(left)


def _retrieve(over: asyncio.Future[Any]) -> None:
    """Look at the exception of a runner, so that asyncio does not complain that nobody did."""
    if not over.cancelled():
        over.exception()


def first(*runners: Awaitable[Any] | Waiting[Any], **named: Awaitable[Any] | Waiting[Any]) -> First:
    """Wait for what ends first: futures, waits, coroutines, by position or by name.

    Gives a `Winner`: ``which`` (its position or name) and its value; raises its exception if it failed. Which one it
    was is recorded. Coroutines and waits that lost are cancelled, and nobody is asked any more (a side effect under way
    ends first); submitted tasks go on.

    Example: ``won = await first(answer=request_input("Go?", bool), late=sleep(3600))``

    Raises:
        UsageError: without anything to wait for.
    """
    racing: dict[int | str, Any] = {**dict(enumerate(runners)), **named}
    if not racing:
        message = "first() needs something to wait for"
        raise UsageError(message)
    return First(racing)


def _checked(what: str, futures: Iterable[TaskFuture[T]]) -> list[TaskFuture[T]]:
    """The futures. Raises `UsageError` for anything else, such as a run in the background."""
    found = list(futures)
    wrong: list[Any] = [given for given in cast("list[Any]", found) if not isinstance(given, TaskFuture)]
    if wrong:
        kinds = [given.__class__.__name__ for given in wrong]
        way_out = "ask it for its result(), or await it" if RunFuture.__name__ in kinds else "use first()"
        message = f"{what}() wants futures of submitted tasks, not a {kinds[0]}; {way_out}"
        raise UsageError(message)
    return found


class as_completed(Iterator[TaskFuture[T]], AsyncIterator[TaskFuture[T]]):  # noqa: N801 - the name in Prefect and in the standard library
    """The futures in the order in which they end: ``for`` in a sync flow, ``async for`` in an async one.

    The order is recorded. Raises TimeoutError where they have not all ended `timeout` seconds after the first is asked
    for (that time begins anew on resume).
    """

    def __init__(self, futures: Iterable[TaskFuture[T]], timeout: float | None = None) -> None:
        self._futures: list[TaskFuture[T]] = _checked("as_completed", futures)
        self._left: dict[int, None] = dict.fromkeys(range(len(self._futures)))
        self._positions: dict[int, list[int]] = {}
        self._timeout = timeout
        self._ends: Iterator[TaskFuture[T]] | None = None
        self._queue: asyncio.Queue[int] | None = None
        self._deadline: float | None = None

    def __next__(self) -> TaskFuture[T]:
        if not self._left:
            raise StopIteration
        choice = _Choice("as_completed", len(self._futures))
        position: int | None = choice.foreseen()
        if position is None:
            position = self._next_end()
        else:
            self._futures[position].wait()
        del self._left[choice.record(position)]
        return self._futures[position]

    def _next_end(self) -> int:
        if self._ends is None:
            for index in self._left:
                self._positions.setdefault(id(self._futures[index]), []).append(index)
            self._ends = ends_of([self._futures[index] for index in self._left], self._timeout)
        ended = next(self._ends, None)
        if ended is None:
            raise self._late()
        return self._positions[id(ended)].pop(0)

    def __iter__(self) -> as_completed[T]:
        return self

    def __aiter__(self) -> as_completed[T]:
        return self

    async def __anext__(self) -> TaskFuture[T]:
        if not self._left:
            raise StopAsyncIteration
        choice = _Choice("as_completed", len(self._futures))
        position: int | None = choice.foreseen()
        if position is None:
            position = await self._next_end_async()
        else:
            await self._futures[position].ended()
        del self._left[await choice.record_async(position)]
        return self._futures[position]

    async def _next_end_async(self) -> int:
        loop = asyncio.get_running_loop()
        if self._queue is None:
            self._queue = asyncio.Queue()
            self._deadline = None if self._timeout is None else loop.time() + self._timeout
            for index in self._left:
                turn = loop.create_future()
                turn.add_done_callback(partial(_put, self._queue, index))
                self._futures[index].wake(turn)
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._queue.get()
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> TimeoutError:
        return TimeoutError(f"{len(self._left)} of {len(self._futures)} futures have not ended in time")


def _put(queue: asyncio.Queue[int], index: int, _: object) -> None:
    queue.put_nowait(index)


def wait(futures: Iterable[TaskFuture[T]], timeout: float | None = None) -> DoneAndNotDone[T]:
    """Block until all have ended, or for `timeout` seconds; which of them had ended by then is recorded.

    Raises `ColourError` on a thread whose event loop runs: await the futures there.
    """
    asked = _checked("wait", futures)
    choice = None if timeout is None or CURRENT.get() is None else _Choice("wait", len(asked), timeout)
    known: list[int] | None = None if choice is None else choice.foreseen()
    if known is None:
        ended = {id(future) for future in ends_of(asked, timeout)}
        known = [index for index, future in enumerate(asked) if id(future) in ended]
    for index in known:
        asked[index].wait()
    if choice is not None:
        choice.record(known)
    done = set(known)
    return DoneAndNotDone(
        [asked[index] for index in known],
        [future for index, future in enumerate(asked) if index not in done],
    )
