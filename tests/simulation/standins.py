"""What stands in for threads, locks, queues and clocks in the modules under test, while a simulation moves them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import sys
import threading
import time
from _thread import get_ident
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from agentflow.engine import branches, seats, submission
from agentflow.engine.crew import Crew, crew
from agentflow.model import ids
from tests.simulation.loops import SimulatedLoop, asyncio_of
from tests.simulation.turns import Killed, Process, SimulatedThread, Turns


class Waiters:
    """Threads that block on something."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waiting: list[SimulatedThread] = []

    def wait(self, seconds: float | None) -> None:
        me = self._turns.me()
        self._waiting.append(me)
        try:
            self._turns.block(seconds)
        finally:
            if me in self._waiting:
                self._waiting.remove(me)

    def wake(self, count: int | None = None) -> None:
        for thread in self._waiting[:count]:
            self._turns.wake(thread)
        del self._waiting[:count]


def threads_of(turns: Turns) -> SimpleNamespace:  # noqa: C901 - seven small classes
    """The names of `threading` that are used, over these turns."""

    class Lock:
        def __init__(self) -> None:
            self._owner: SimulatedThread | None = None
            self._depth = 0
            self._waiters = Waiters(turns)

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            me = turns.current
            deadline = turns.now + timeout
            while self._depth and not (self.reentrant and self._owner is me):
                if not blocking or (timeout >= 0 and turns.now >= deadline):
                    return False
                if me is None or me.process.dead:
                    raise Killed
                self._waiters.wait(None if timeout < 0 else deadline - turns.now)
            self._owner = me
            self._depth += 1
            return True

        def release(self) -> None:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._waiters.wake(1)

        def force(self) -> None:
            """Have it, in a process that is dead: so that leaving a block does no harm."""
            self._depth += 1

        reentrant = False

        def __enter__(self) -> None:
            self.acquire()

        def __exit__(self, *error: object) -> None:
            self.release()

    class RLock(Lock):
        reentrant = True

    class Event:
        def __init__(self) -> None:
            self._set = False
            self._waiters = Waiters(turns)

        def is_set(self) -> bool:
            return self._set

        def set(self) -> None:
            self._set = True
            self._waiters.wake()

        def clear(self) -> None:
            self._set = False

        def wait(self, timeout: float | None = None) -> bool:
            deadline = None if timeout is None else turns.now + timeout
            while not self._set and (deadline is None or turns.now < deadline):
                self._waiters.wait(None if deadline is None else deadline - turns.now)
            return self._set

    class Condition:
        def __init__(self, lock: Any = None) -> None:
            self._lock = lock or RLock()
            self._waiters = Waiters(turns)

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *error: object) -> None:
            self._lock.release()

        def wait(self, timeout: float | None = None) -> bool:
            before = turns.now
            self._lock.release()
            try:
                self._waiters.wait(timeout)
            finally:
                if not turns.me().process.dead:
                    self._lock.acquire()
                else:
                    self._lock.force()
            return timeout is None or turns.now < before + timeout

        def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
            deadline = None if timeout is None else turns.now + timeout
            while not predicate() and (deadline is None or turns.now < deadline):
                self.wait(None if deadline is None else deadline - turns.now)
            return predicate()

        def notify(self, count: int = 1) -> None:
            self._waiters.wake(count)

        def notify_all(self) -> None:
            self._waiters.wake()

    class Thread:
        def __init__(
            self,
            target: Callable[..., object],
            args: Iterable[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
            name: str = "thread",
            *,
            daemon: bool = False,
        ) -> None:
            self._call = lambda: target(*args, **(kwargs or {}))
            self.name = name
            self._thread: SimulatedThread | None = None

        def start(self) -> None:
            self._thread = turns.spawn(turns.me().process, self._call, self.name)

        def is_alive(self) -> bool:
            return self._thread is not None and not self._thread.over

        def join(self, timeout: float | None = None) -> None:
            thread = self._thread
            if thread is not None and not thread.over:
                me = turns.me()
                thread.joining.append(me)
                try:
                    turns.block(timeout)
                finally:
                    thread.joining.remove(me)

    return SimpleNamespace(
        Lock=Lock,
        RLock=RLock,
        Event=Event,
        Condition=Condition,
        Thread=Thread,
        local=threading.local,
        get_ident=lambda: turns.me().number,
        current_thread=turns.me,
        main_thread=lambda: None,
    )


def time_of(turns: Turns) -> SimpleNamespace:
    """The names of `time` that are used."""

    def now() -> float:
        return turns.now

    return SimpleNamespace(time=now, monotonic=now, perf_counter=now, process_time=lambda: 0.0)


def future_of(threads: SimpleNamespace) -> type[Any]:
    """`concurrent.futures.Future`, over these threads."""

    class Future(concurrent.futures.Future[Any]):
        def __init__(self) -> None:
            super().__init__()
            self._condition = threads.Condition()

    return Future


def queue_of(turns: Turns) -> type[Any]:
    """`queue.SimpleQueue`, over these turns."""

    class SimpleQueue:
        def __init__(self) -> None:
            self._items: deque[Any] = deque()
            self._waiters = Waiters(turns)

        @classmethod
        def __class_getitem__(cls, _: Any) -> Any:
            return cls

        def put(self, item: Any) -> None:
            self._items.append(item)
            self._waiters.wake(1)

        def get_nowait(self) -> Any:
            if not self._items:
                raise queue.Empty
            return self._items.popleft()

        def get(self, timeout: float | None = None) -> Any:
            deadline = None if timeout is None else turns.now + timeout
            while not self._items:
                if deadline is not None and turns.now >= deadline:
                    raise queue.Empty
                self._waiters.wait(None if deadline is None else deadline - turns.now)
            return self._items.popleft()

    return SimpleQueue


class _Here:
    """The seat of each thread."""

    def __init__(self, turns: Turns) -> None:
        self.__dict__["_turns"] = turns

    def __getattr__(self, name: str) -> Any:
        return self._turns.me().local.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._turns.me().local[name] = value


def background_loop_of(turns: Turns) -> Callable[[], SimulatedLoop]:
    """The loop in the background of each process."""
    loops: dict[Process, SimulatedLoop] = {}

    def background_loop() -> SimulatedLoop:
        process = turns.me().process
        if process not in loops:
            loop = loops[process] = SimulatedLoop(turns)
            branches.install(loop)
            turns.spawn(process, loop.run_forever, "background loop")
        return loops[process]

    return background_loop


def crew_of(turns: Turns) -> Callable[[], Crew]:
    """The threads for submitted tasks of each process."""
    crews = defaultdict[Process, Crew](Crew)
    return lambda: crews[turns.me().process]


def _modules() -> list[ModuleType]:
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("agentflow.")]


@contextmanager
def installed(turns: Turns) -> Generator[None, None, None]:
    """While this block runs, agentflow's modules use what stands in."""
    threads = threads_of(turns)
    turns.future = future_of(threads)
    instead: list[tuple[str, Any, Any]] = [
        ("asyncio", asyncio, asyncio_of(turns)),
        ("background_loop", submission.background_loop, background_loop_of(turns)),
        ("crew", crew, crew_of(turns)),
        ("_kept", vars(submission)["_kept"], set[Any]()),
        ("threading", threading, threads),
        ("time", time, time_of(turns)),
        ("Future", concurrent.futures.Future, turns.future),
        ("SimpleQueue", queue.SimpleQueue, queue_of(turns)),
        ("get_ident", get_ident, threads.get_ident),
        ("new_id", ids.new_id, lambda: f"{turns.rng.getrandbits(64):016x}"),
        ("_here", vars(seats)["_here"], _Here(turns)),
    ]
    changes = [
        mock.patch.object(module, name, new)
        for module in _modules()
        for name, old, new in instead
        if vars(module).get(name) is old
    ]
    # what is known of each journal goes with the simulation: most of it knows its journal, too, and would stay for ever
    changes += [
        mock.patch.object(module, name, WeakKeyDictionary[Any, Any]())
        for module in _modules()
        for name, value in vars(module).items()
        if isinstance(value, WeakKeyDictionary)
    ]
    for change in changes:
        change.start()
    try:
        yield
    finally:
        for change in reversed(changes):
            change.stop()
