"""Many threads of many processes in one: exactly one moves at a time, chance decides which, and time is a number.

Threads are greenlets; they give way only where they block or come to a `point`. The same seed gives the same course.
What the code under test takes for threads, locks and clocks stands in `standins`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Collection
from typing import Any, cast

import greenlet

#: Where the clock starts: a day in 2026.
EPOCH = 1_790_000_000.0
_greenlet: Any = greenlet.greenlet
_current = cast("Callable[[], Any]", greenlet.getcurrent)


class Killed(BaseException):
    """The process of this thread was killed: nothing it does counts any more."""


class StuckError(AssertionError):
    """Nothing can move any more, or too much does."""


class Process:
    """What dies and freezes as a whole."""

    def __init__(self, turns: Turns, name: str) -> None:
        self.turns, self.name = turns, name
        self.dead = self.frozen = False
        self.threads: list[SimulatedThread] = []
        #: Called before it moves, for the first time or again.
        self.moves: Callable[[], None] = lambda: None
        #: When it went on after it was frozen last.
        self.thawed = float("-inf")

    def kill(self) -> None:
        """End all its threads where they stand; if one of them asks for it, it does not come back from here."""
        if self.dead:
            return
        self.dead = True
        self.turns.note("killed", self.name)
        self.turns.dying.append(self)
        if self.turns.current is not None and self.turns.current.process is self:
            self.turns.hub.switch()

    def freeze(self, seconds: float) -> None:
        """Let none of its threads move for so long, as after SIGSTOP."""
        if self.dead or self.frozen:
            return
        self.frozen = True
        self.turns.note("frozen", self.name, round(seconds, 3))
        self.turns.later(seconds, self._thaw)

    def _thaw(self) -> None:
        if not self.dead:
            self.moves()
        self.frozen, self.thawed = False, self.turns.now
        if not self.dead:
            self.turns.note("goes on", self.name)


class SimulatedThread:
    """A thread of a process."""

    def __init__(self, process: Process, target: Callable[[], object], name: str) -> None:
        self.process, self.name = process, name
        self.number = next(process.turns.numbers)
        self.over = False
        #: What it shares with nobody, as `threading.local` would have it.
        self.local: dict[str, Any] = {}
        self.joining: list[SimulatedThread] = []
        #: The event loop that it runs, while it does not move.
        self.loop: asyncio.AbstractEventLoop | None = None
        self._target = target
        #: Which of its blocks this is; wakes it only from that one.
        self.block_number = 0
        self.blocked = False
        self.greenlet = _greenlet(self._run, parent=process.turns.hub)

    def _run(self) -> None:
        turns = self.process.turns
        try:
            self._target()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - a thread that nobody looks at
            turns.failures.append(f"thread {self.name} of {self.process.name} died of {error!r}")
        self.over = True
        self.process.threads.remove(self)
        for other in self.joining:
            turns.wake(other)


class Turns:
    """Whose turn it is. `note` is called with everything that happens."""

    def __init__(self, seed: int, note: Callable[..., None]) -> None:
        self.rng = random.Random(seed)
        self.note = note
        self.now = EPOCH
        self.numbers = itertools.count(1)
        self.current: SimulatedThread | None = None
        self.dying: list[Process] = []
        self.failures: list[str] = []
        self.switches = 0
        self.hub: Any = _greenlet(self._loop)
        self._ready: list[SimulatedThread] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._is_over: Callable[[], bool] = bool
        #: Makes what `concurrent.futures.Future` is to these threads.
        self.future: Callable[[], Any] = object

    # -- from threads
    def spawn(self, process: Process, target: Callable[[], object], name: str) -> SimulatedThread:
        """A new thread, which moves when its turn comes."""
        thread = SimulatedThread(process, target, name)
        if process.dead:
            thread.over = True
        else:
            process.threads.append(thread)
            self._ready.append(thread)
        return thread

    def me(self) -> SimulatedThread:
        """The thread that moves."""
        assert self.current is not None
        return self.current

    def block(self, seconds: float | None = None) -> None:
        """Move no further until woken, or until the time has passed."""
        me = self.me()
        if me.process.dead:
            raise Killed
        me.block_number += 1
        me.blocked = True
        if seconds is not None:
            number = me.block_number
            self.later(seconds, lambda: self.wake(me, number))
        self.hub.switch()

    def wake(self, thread: SimulatedThread, number: int | None = None) -> None:
        """Let a blocked thread move."""
        if thread.blocked and number in (None, thread.block_number):
            thread.blocked = False
            self._ready.append(thread)

    def give_way(self) -> None:
        """Let others move, perhaps."""
        me = self.me()
        if me.process.dead:
            raise Killed
        if self.rng.random() < 0.5:
            self._ready.append(me)
            self.hub.switch()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something in so many seconds."""
        heapq.heappush(self._timers, (self.now + max(0.0, seconds), next(self._order), call))

    # -- from outside
    def run(self, is_over: Callable[[], bool], horizon: float) -> None:
        """Let everything move until it is over. Raises `StuckError` `horizon` seconds from the start."""
        self._is_over, self._horizon = is_over, EPOCH + horizon
        self.hub.switch()

    def end(self, processes: Collection[Process]) -> None:
        """Let none of these move any more: threads that stood somewhere for ever would keep all that they know."""
        for process in processes:
            process.dead = True
        for process in processes:
            self._bury(process)

    def _loop(self) -> None:
        while not self._is_over():
            while self.dying:
                self._bury(self.dying.pop())
            if self.failures:
                raise StuckError(self.failures[0])
            able = [thread for thread in self._ready if not thread.process.frozen]
            if not able:
                self._pass_time()
                continue
            thread = able[int(self.rng.random() * len(able))]
            self._ready.remove(thread)
            self.switches += 1
            self._move(thread)

    def _move(self, thread: SimulatedThread, *thrown: BaseException) -> None:
        self.current = thread
        asyncio._set_running_loop(thread.loop)  # all of these threads are one to asyncio
        (thread.greenlet.throw if thrown else thread.greenlet.switch)(*thrown)
        thread.loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        self.current = None

    def _pass_time(self) -> None:
        if not self._timers:
            raise StuckError("nothing moves any more")
        due, _, call = heapq.heappop(self._timers)
        if due > self._horizon:
            raise StuckError("it does not come to an end")
        self.now = max(self.now, due)
        call()

    def _bury(self, process: Process) -> None:
        """Throw its threads out of wherever they stand; what they do on their way has no effect."""
        for thread in list(process.threads):
            if thread.greenlet:
                self._move(thread, Killed())
                if not thread.over:
                    raise StuckError(f"{thread.name} of {process.name} survives its process")
            else:
                thread.over = True
                process.threads.remove(thread)
        self._ready = [thread for thread in self._ready if thread.process is not process]
