"""The two ways to run the engine's coroutines: `Inline` in the caller's thread, `Loop` on the caller's event loop.

Everything that differs between the colours is here; the engine itself is written once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.readings import carrier, opening_of
from agentflow.engine.seats import lent, seat, sit, standing
from agentflow.engine.shielding import Interrupted as Interrupted  # noqa: PLC0414 - it is raised from here
from agentflow.engine.shielding import finish
from agentflow.errors import ColourError, Revoked
from agentflow.journal.protocol import CacheRow

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.delivery import Leaving
    from agentflow.engine.futures import TaskFuture
    from agentflow.engine.records import Record
    from agentflow.engine.waiting import Wakeup
    from agentflow.model.steps import StepRow
    from agentflow.payloads.envelopes import Draft

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread; None in a plain thread."""
    return asyncio._get_running_loop()  # noqa: SLF001 - the public one raises, which costs more


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of the engine to its end in this thread; nothing in it may suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    message = "the blocking engine was suspended: an await bypassed the runtime"
    raise RuntimeError(message)


class Runtime(Protocol):
    """What the engine needs of a colour."""

    async def deliver(
        self, run: ActiveRun, record: Record, *, opens: bool = True, leaving: Leaving | None = None
    ) -> Draft | None:
        """Return when it is the record's turn; with its value, if it has one that took long to open, and `opens`.

        `leaving`: branches that have ended then.
        """
        ...

    async def settled(self, run: ActiveRun) -> None:
        """Return when nothing recorded has to be delivered first."""
        ...

    async def commit(self, run: ActiveRun, rows: list[StepRow], extras: Extras | None = None) -> None:
        """Commit rows so that they survive the process, with `extras` that are committed in the same transaction."""
        ...

    async def blocking(self, function: Callable[[], T]) -> T:
        """Do something that blocks for long (a durable commit)."""
        ...

    async def transfer(self, function: Callable[[], T]) -> T:
        """Bring a large value to where it is kept, or from there."""
        ...

    async def read(self, run: ActiveRun, function: Callable[[], T]) -> T:
        """Bring a large value from where it is kept, at its reader's own time; see `agentflow.engine.readings`."""
        ...

    async def at_hand(self, futures: Sequence[TaskFuture[Any]]) -> None:
        """Return when the values of futures that have ended can be asked for, once each, without taking long."""
        ...

    #: Whether what the user's function returns is awaited.
    awaits: bool

    async def shielded(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        """Call the user's function to its end (or its timeout), whatever happens to the caller."""
        ...

    async def protected(self, run: ActiveRun, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await a coroutine function of the engine's to its end, whatever happens to the caller."""
        ...

    async def join(self, futures: Sequence[TaskFuture[Any]]) -> None:
        """Return when all have ended, whatever came of them."""
        ...

    async def awaited(self, answer: Awaitable[T]) -> T:
        """What an awaitable of the user's gives."""
        ...

    async def over(self, other: Future[None]) -> None:
        """Return when something else of the run is over."""
        ...

    async def timed(
        self,
        seconds: float,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        """Call the user's function; raises `Overdue` when time is up."""
        ...

    async def pause(self, run: ActiveRun, seconds: float) -> None:
        """Let time pass: less of it where the run is stopped, or its process is to end."""
        ...

    async def park(self, pending: Wakeup) -> None:
        """Block until somebody wakes it. Raises `ColourError` where that would block a running loop."""
        ...

    def is_inline(self, frame: Frame) -> bool:
        """Whether the call runs in the branch that made it."""
        ...

    def task(self) -> Any:
        """The asyncio task in which a body runs; None in a plain thread."""
        ...

    def leave(self, run: ActiveRun) -> None:
        """The call that had a task of its own is over."""
        ...


class Overdue(Exception):
    """Time is up."""


class Inline:
    """The caller's own thread."""

    awaits = False

    async def deliver(
        self, run: ActiveRun, record: Record, *, opens: bool = True, leaving: Leaving | None = None
    ) -> Draft | None:
        del run, opens, leaving
        record.claimed = 2

    async def settled(self, run: ActiveRun) -> None:
        del run

    async def commit(self, run: ActiveRun, rows: list[StepRow], extras: Extras | None = None) -> None:
        if extras is None:
            run.journal.append(run.number, run.epoch, rows)
        else:
            run.journal.append(run.number, run.epoch, rows, **extras.options())

    async def blocking(self, function: Callable[[], T]) -> T:
        return function()

    async def transfer(self, function: Callable[[], T]) -> T:
        return function()

    async def read(self, run: ActiveRun, function: Callable[[], T]) -> T:
        del run
        return function()

    async def at_hand(self, futures: Sequence[TaskFuture[Any]]) -> None:
        del futures  # whoever asks for them may block

    async def shielded(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        seconds = frame.policy.timeout_seconds
        if seconds is not None:
            return await self.timed(seconds, function, args, kwargs, frame)
        return function(*args, **kwargs)

    async def protected(self, run: ActiveRun, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        del run
        return await function(*args)

    async def join(self, futures: Sequence[TaskFuture[Any]]) -> None:
        for future in futures:
            future.wait()

    async def awaited(self, answer: Awaitable[T]) -> T:
        return await_in_thread(answer)

    async def over(self, other: Future[None]) -> None:
        other.result()

    async def timed(
        self,
        seconds: float,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        """A thread is abandoned when time is up, never killed: its attempt is revoked, its late doings are refused."""
        box: list[tuple[bool, Any]] = []
        context, own = copy_context(), seat()

        def target() -> None:
            frame.thread = get_ident()
            sit(own)
            try:
                box.append((True, context.run(function, *args, **kwargs)))
            except BaseException as error:
                box.append((False, error))
            finally:
                over.wake()

        with frame.run.blocked.asleep(frame.run, woken=not frame.in_effect) as over:
            threading.Thread(target=target, name=f"agentflow-{frame.policy.name}", daemon=True).start()
            over.block(seconds)
        if not box:
            frame.run.revoke(frame)
            if own is not None:
                sit(own.leave())
            if frame.run.fence is not None:  # nobody waits for what a stopped run still computes
                frame.run.check(frame)
            raise Overdue
        succeeded, value = box[0]
        if succeeded:
            return value
        raise value

    async def pause(self, run: ActiveRun, seconds: float) -> None:
        if run.options.sleep is not None:
            run.options.sleep(seconds)
            return
        with run.blocked.asleep(run, pauses=True) as sleeper:
            sleeper.block(seconds)

    async def park(self, pending: Wakeup) -> None:
        if running_loop() is not None:
            message = (
                f"{pending.name!r} would block this thread's event loop; "
                "await it, or call the task through `.submit(...)` and await that"
            )
            raise ColourError(message)
        with lent() if pending.lends else standing():
            pending.block()

    def is_inline(self, frame: Frame) -> bool:
        if frame.task is None:
            return not frame.thread or frame.thread == get_ident()
        return frame.task is _current_task()

    def task(self) -> Any:
        return _current_task()

    def leave(self, run: ActiveRun) -> None:
        del run


class Loop:
    """The caller's event loop."""

    awaits = True

    async def deliver(
        self, run: ActiveRun, record: Record, *, opens: bool = True, leaving: Leaving | None = None
    ) -> Draft | None:
        opening = opening_of(run, record) if opens else None
        if len(run.tasks) > 1:
            return await run.delivery.deliver(asyncio.get_running_loop(), record, opening, leaving)
        found = None if opening is None else await self.transfer(opening)
        record.claimed = 2
        return found

    async def settled(self, run: ActiveRun) -> None:
        if run.records is not None and len(run.tasks) > 1:
            await run.delivery.settled(asyncio.get_running_loop())

    async def commit(self, run: ActiveRun, rows: list[StepRow], extras: Extras | None = None) -> None:
        if len(run.tasks) > 1 or run.group.busy:
            await run.group.commit(run, rows, extras)
        elif extras is not None:
            await self.blocking(partial(run.journal.append, run.number, run.epoch, rows, **extras.options()))
        elif not run.journal.try_append(run.number, run.epoch, rows):
            await self.blocking(partial(run.journal.append, run.number, run.epoch, rows))

    async def blocking(self, function: Callable[[], T]) -> T:
        return await self._hop(writer(), function)

    async def transfer(self, function: Callable[[], T]) -> T:
        return await self._hop(carrier(), function)

    async def read(self, run: ActiveRun, function: Callable[[], T]) -> T:
        return await run.readings.read(partial(self.transfer, function))

    async def at_hand(self, futures: Sequence[TaskFuture[Any]]) -> None:
        for future in futures:
            await future.fetch()

    async def _hop(self, threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        frame = CURRENT.get()
        hop = asyncio.get_running_loop().run_in_executor(threads, function)
        if frame is None:
            return await finish(hop)
        delivery = frame.run.delivery
        delivery.hops += 1  # a run with one on its way is not quiet, whatever else waits in it
        try:
            return await finish(hop)
        finally:
            delivery.hops -= 1

    async def shielded(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        return await finish(asyncio.ensure_future(_in_frame(self, frame, function, args, kwargs)))

    async def protected(self, run: ActiveRun, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        task = asyncio.ensure_future(function(*args))
        run.shielded.add(cast("asyncio.Task[Any]", task))
        task.add_done_callback(run.tasks.discard)
        return await finish(task)

    async def join(self, futures: Sequence[TaskFuture[Any]]) -> None:
        for future in futures:
            await future.ended()

    async def awaited(self, answer: Awaitable[T]) -> T:
        return await answer

    async def over(self, other: Future[None]) -> None:
        await asyncio.wait([asyncio.wrap_future(other)])

    async def timed(
        self,
        seconds: float,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        """It is cancelled when time is up, and its attempt revoked: it may clean up, but not call anything new."""
        try:
            return await self.limited(seconds, function, args, kwargs, lambda: frame.run.revoke(frame))
        except Revoked:
            if frame.root.revoked:
                raise Overdue from None
            raise

    async def limited(
        self,
        seconds: float,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        late: Callable[[], None] = lambda: None,
    ) -> Any:
        """Await the user's function; raises `Overdue` when time is up, after `late` was called and it was cancelled."""
        loop, limit = asyncio.get_running_loop(), asyncio.timeout(None)

        def strike() -> None:
            late()
            limit.reschedule(loop.time())

        timer = loop.call_later(seconds, strike)
        try:
            async with limit:
                value = await function(*args, **kwargs)
        except TimeoutError:
            if limit.expired():
                raise Overdue from None
            raise
        finally:
            timer.cancel()
        if limit.expired():  # it took no notice
            raise Overdue
        return value

    async def pause(self, run: ActiveRun, seconds: float) -> None:
        if run.options.sleep_async is not None:
            await run.options.sleep_async(seconds)
            return
        with run.blocked.asleep(run, pauses=True) as sleeper:
            await sleeper.arrive(seconds)

    async def park(self, pending: Wakeup) -> None:
        await pending.arrive()

    def is_inline(self, frame: Frame) -> bool:
        task = asyncio.current_task()
        return frame.task is task or frame.run.aliases.get(cast("Any", task)) is frame.task

    def task(self) -> Any:
        return asyncio.current_task()

    def leave(self, run: ActiveRun) -> None:
        task = asyncio.current_task()
        if task is not None:
            run.tasks.discard(task)


def await_in_thread(answer: Awaitable[T]) -> T:
    """What an awaitable gives, for a caller that cannot await: it runs on a loop of its own in another thread."""

    async def body() -> T:
        return await answer

    with ThreadPoolExecutor(1, thread_name_prefix="agentflow-await") as pool:
        return pool.submit(copy_context().run, asyncio.run, body()).result()


async def _in_frame(
    loop: Loop, frame: Frame, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    frame.task = asyncio.current_task()
    seconds = frame.policy.timeout_seconds
    if seconds is not None:
        return await loop.timed(seconds, function, args, kwargs, frame)
    return await function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Extras:
    """What is committed together with rows."""

    #: Survive power loss, not only the death of the process.
    durable: bool = False
    cache: tuple[CacheRow, ...] = ()
    #: Waits whose answers are taken.
    consumed: tuple[str, ...] = ()
    #: Claims of slots that are given back.
    released: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """As options of the journal's ``append``."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __add__(self, other: Extras) -> Extras:
        return Extras(
            self.durable or other.durable,
            self.cache + other.cache,
            self.consumed + other.consumed,
            self.released + other.released,
        )


NO_EXTRAS = Extras()
DURABLY = Extras(durable=True)


def _current_task() -> Any:
    return asyncio.current_task() if running_loop() is not None else None


@cache
def writer() -> ThreadPoolExecutor:
    """The thread on which event loops have their durable commits made."""
    return ThreadPoolExecutor(4, thread_name_prefix="agentflow-writer")


INLINE = Inline()
LOOP = Loop()
