"""Event loops of simulated threads: callbacks in their order, time by the turns, executors as threads of the process.

Tasks and futures have hashes by number, so that sets of them keep one order in every simulation of a seed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import count
from types import SimpleNamespace
from typing import Any, Self, cast

from tests.simulation.turns import EPOCH, Killed, SimulatedThread, Turns

#: Seconds within which two times are one, for the clock is a number of ten digits before its point.
_RESOLUTION = 1e-6
#: How often a coroutine of a dead process may go on waiting.
_STUBBORN = 100
_numbers = count()


class SimulatedTask(asyncio.Task[Any]):
    """A task that is known by its number."""

    number: int

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made.number = next(_numbers)
        return made

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[Any]):
    """A future that is known by its number."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.number = next(_numbers)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The event loop of one thread."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._ready: deque[tuple[asyncio.Handle, Callable[..., object], Any, Context]] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Callable[..., object], Any, Context]] = []
        self._order = count()
        #: The thread that runs it; whether it sleeps until there is something to do.
        self._thread: SimulatedThread | None = None
        self._asleep = self._stopping = self._closed = False
        self._factory: Any = None
        self._tasks: list[asyncio.Task[Any]] = []

    # -- callbacks
    def time(self) -> float:
        return self._turns.now - EPOCH

    def get_debug(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((handle, callback, args, context or copy_context()))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = self.call_soon(callback, *args, context=context)
        if self._asleep and self._thread is not None:
            self._turns.wake(self._thread)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        entry = (when, next(self._order), handle, callback, args, context or copy_context())
        heapq.heappush(self._timers, entry)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: it is passed over when its time comes."""

    # -- tasks
    def create_future(self) -> asyncio.Future[Any]:
        return SimulatedFuture(self)

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        made = (self._factory or _plain_task)(self, coro, context=context)
        if name is not None:
            made.set_name(str(name))
        self._tasks.append(made)
        return made

    def set_task_factory(self, factory: Any) -> None:
        self._factory = factory

    def get_task_factory(self) -> Any:
        return self._factory

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """In a thread of its own, whatever the executor is."""
        outcome = self._turns.future()

        def work() -> None:
            try:
                value = func(*args)
            except Killed:
                raise
            except BaseException as error:  # noqa: BLE001 - told to whoever waits
                outcome.set_exception(error)
            else:
                outcome.set_result(value)

        self._turns.spawn(self._turns.me().process, work, "executor")
        return asyncio.wrap_future(cast("Future[Any]", outcome), loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody has looked at when it is thrown away, at a time that is not the simulation's."""

    # -- life
    def is_running(self) -> bool:
        return self._thread is not None

    def is_closed(self) -> bool:
        return self._closed

    def stop(self) -> None:
        self._stopping = True

    def run_forever(self) -> None:
        self._thread = self._turns.me()
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._sleep()
                for _ in range(len(self._ready)):
                    self._call(*self._ready.popleft())
        except Killed:
            self._abandon()
            raise
        finally:
            asyncio._set_running_loop(None)
            self._thread, self._stopping = None, False

    def run_until_complete(self, future: Any) -> Any:
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(self._stop_after)
        self.run_forever()
        return task.result()

    def _stop_after(self, task: asyncio.Future[Any]) -> None:
        del task
        self.stop()

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def _call(
        self, handle: asyncio.Handle, callback: Callable[..., object], args: Any, context: Context
    ) -> None:
        if self._turns.me().process.dead:
            raise Killed
        if not handle.cancelled():
            context.run(callback, *args)

    def _sleep(self) -> None:
        """Until something is to be called."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if self._ready:
            self._turns.give_way()
        else:
            self._asleep = True
            try:
                self._turns.block(timers[0][0] - self.time() if timers else None)
            finally:
                self._asleep = False
        while timers and timers[0][0] < self.time() + _RESOLUTION:
            self._ready.append(heapq.heappop(timers)[2:])

    def end(self) -> None:
        """Cancel what is left, as at the end of `asyncio.run`, and close."""
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.close()

    def _abandon(self) -> None:
        """The process is dead: throw its coroutines out of wherever they stand."""
        for task in self._tasks:
            if not task.done():
                _throw_out(cast("Coroutine[Any, Any, Any]", task.get_coro()))
        self.close()


def _plain_task(loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None) -> SimulatedTask:
    return SimulatedTask(coro, loop=loop, context=context)


def _throw_out(coroutine: Coroutine[Any, Any, Any]) -> None:
    with suppress(BaseException):
        for _ in range(_STUBBORN):
            coroutine.throw(Killed())
    coroutine.close()


def asyncio_of(turns: Turns) -> SimpleNamespace:
    """The names of `asyncio`, with these loops and tasks."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        loop = SimulatedLoop(turns)
        try:
            return loop.run_until_complete(main)
        finally:
            if not loop.is_closed():
                loop.end()

    names = {name: value for name, value in vars(asyncio).items() if not name.startswith("__")}
    return SimpleNamespace(
        **names | {"run": run, "Task": SimulatedTask, "new_event_loop": lambda: SimulatedLoop(turns)}
    )
