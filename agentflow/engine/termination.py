"""SIGTERM while lives of runs are under way in the main thread: they drain, then it goes on to whoever had it before.

What has begun may end within ``drain_patience``, nothing more begins, each run is given back. Then the handler of
before is in force again and is called: a program without one ends. A second signal does not wait for steps to end, a
third one for nothing. Lives in other threads are not told: where the process ends, they go on as after a kill.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from _thread import allocate_lock, start_new_thread
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentflow.engine.flow_run import run_blocking, run_on_loop
from agentflow.engine.waiting import waker_of
from agentflow.errors import Cancelling, JournalUnavailable, Stopping
from agentflow.model.states import StateType

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.flow_run import Body, Outcome

#: Seconds for what is blocked in agentflow to unwind, before the code of the main thread is interrupted.
_MOMENT = 0.1
#: Seconds for interrupted code to end, in a process that ends whatever it does.
_LAST_MOMENT = 2.0
_INTERRUPTED = 130
_WHY = "the process was told to end; the run goes on when it is resumed"


def live(active: ActiveRun, body: Body, *, ours: bool = False, exits: bool = False) -> Outcome:
    """Run a life to its end in this thread; see `terminable`. Raises `Stopping` where the process is to end first."""
    with terminable(active, ours=ours, exits=exits) as watch:
        outcome = run_blocking(active, body)
    return watch.seen(outcome)


async def live_on_loop(active: ActiveRun, body: Body) -> Outcome:
    """Like `live`, for an async flow on the running loop."""
    with terminable(active) as watch:
        outcome = await run_on_loop(active, body)
    return watch.seen(outcome)


@dataclass
class Watch:
    """What came of a block in which SIGTERM could come."""

    #: It has come.
    told: bool = False

    def seen(self, outcome: Outcome) -> Outcome:
        """The outcome, if it is one: a run that was given back has none."""
        if self.told and not outcome.state.is_final:
            raise Stopping(_WHY)
        return outcome


@contextmanager
def terminable(active: ActiveRun, *, ours: bool = False, exits: bool = False) -> Generator[Watch, None, None]:
    """Let SIGTERM drain the life that this block runs, if this is the main thread.

    Not where the program ignores the signal, or has its event loop handle it.

    Args:
        active: The life.
        ours: The program is one of agentflow's and ends by itself: whoever had the signal before does not get it.
        exits: Code that goes on although it was interrupted ends with the process.
    """
    watch = Watch()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not _sigterm.enter(active, ours=ours, exits=exits):
        yield watch
        return
    try:
        yield watch
    finally:
        watch.told = _sigterm.leave(active, passes_on=not ours)


def tell() -> None:
    """Do what SIGTERM does; from any thread."""
    _sigterm.tell()


class _Sigterm:
    """The signal, and the lives under way in the main thread. A handler may interrupt any code, so it takes no lock."""

    def __init__(self) -> None:
        self._lives: list[ActiveRun] = []
        self._before: Any = None
        #: It has come.
        self._told = False
        #: Lives were cut off: whoever sends it now interrupts the main thread.
        self._cut = False
        #: A life is just being taken from the list.
        self._leaving = False
        self._exits = False
        self._lock = threading.Lock()
        #: It has come again.
        self._insisted = False
        #: Released to have the drain look.
        self._wake = allocate_lock()
        self._wake.acquire()

    # -- in the main thread
    def enter(self, active: ActiveRun, *, ours: bool, exits: bool) -> bool:
        """Watch a life; False where the signal is not to be had."""
        if not self._lives:
            before = signal.getsignal(signal.SIGTERM)
            if not ours and (before in (None, signal.SIG_IGN) or _is_of_a_loop(before)):
                return False
            self._before = before
            signal.signal(signal.SIGTERM, self._on_signal)
        self._exits = exits or (self._exits and bool(self._lives))
        self._lives.append(active)
        if self._told:  # it came before, and nothing begins any more
            active.draining, active.fence = True, Stopping(_WHY)
        return True

    def leave(self, active: ActiveRun, *, passes_on: bool) -> bool:
        """A life is over; returns whether the signal has come. After the last one, who had it before is called."""
        self._leaving = True
        with self._lock:
            self._lives.remove(active)
            last = not self._lives
            if last:
                signal.signal(signal.SIGTERM, self._before)
        self._look()
        self._leaving = False
        told = self._told
        if last and told and passes_on:
            self._told = self._insisted = self._cut = False
            signal.raise_signal(signal.SIGTERM)
        return told

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._cut and not self._leaving:
            raise KeyboardInterrupt
        self.tell()

    # -- from anywhere
    def tell(self) -> None:
        """It has come: for the first time, or somebody insists."""
        if self._told:
            self._insisted = True
            self._look()
            return
        self._told = True
        for life in self._lives:
            life.draining = life.guarded = True  # no step begins from here on; the rest is for another thread
        if self._lives:
            start_new_thread(self._drain, ())

    def _look(self) -> None:
        with suppress(RuntimeError):  # it is released already, and nobody has looked yet
            self._wake.release()

    # -- in a thread of its own
    def _drain(self) -> None:
        lives = list(self._lives)
        stopped = [_is_stopped(life) for life in lives]
        for life in lives:
            life.drain()
            waker_of(life.journal).poke()
        patience = max((life.options.settings.drain_patience for life in lives), default=0.0)
        if not all(stopped) and self._are_over(lives, patience, unless_insisted=True):
            return
        turned = threading.Event()
        for life in lives:
            if not isinstance(life.fence, Cancelling):
                life.stop(Stopping(_WHY))
            if life.loop is not None and not life.loop.is_closed():
                life.loop.call_soon_threadsafe(turned.set)
        with self._lock:
            self._cut = self._has_any(lives)
        if self._are_over(lives, _MOMENT):
            return
        if any(life.loop is None for life in lives) or not turned.wait(_LAST_MOMENT):
            self._interrupt(lives)
        if self._exits and not self._are_over(lives, _LAST_MOMENT):
            os._exit(_INTERRUPTED)  # its lock is free then, and what had not ended is begun again

    def _has_any(self, lives: list[ActiveRun]) -> bool:
        """Whether one of these lives is still under way; a program that lives on may have begun others since."""
        return any(life in lives for life in list(self._lives))

    def _are_over(self, lives: list[ActiveRun], seconds: float, *, unless_insisted: bool = False) -> bool:
        """Wait until these lives are over, at the most so many seconds; returns whether they are."""
        deadline = time.monotonic() + seconds
        while self._has_any(lives) and not (unless_insisted and self._insisted):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._wake.acquire(timeout=left)
        return not self._has_any(lives)

    def _interrupt(self, lives: list[ActiveRun]) -> None:
        main = threading.main_thread().ident
        with self._lock:
            if self._has_any(lives) and not self._leaving and main is not None:
                signal.pthread_kill(main, signal.SIGTERM)


def _is_of_a_loop(handler: Any) -> bool:
    return getattr(handler, "__module__", "").startswith(asyncio.__name__)


def _is_stopped(life: ActiveRun) -> bool:
    """Whether somebody cancelled the run, which its life may not have seen yet, and nothing is to be waited for."""
    with suppress(Exception, JournalUnavailable):  # whatever the journal says, the process is to end
        stored = life.journal.get_run(life.run.id)
        if stored is not None and stored.state is StateType.CANCELLING and life.fence is None:
            life.stop(Cancelling(stored.message))
    return life.fence is not None and not life.effects and not life.transactions.open


_sigterm = _Sigterm()
