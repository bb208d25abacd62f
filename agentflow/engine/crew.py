"""Threads for lives of runs and for submitted tasks: as many as wait at once, not as many as there are.

Python executes one thread at a time, and passing its lock between many that only compute takes longer than their work
does. So a thread that has ended a job takes the next one, and another thread joins in only where jobs are held up:
because those under way wait for something (a disk, the network, each other), or because one takes long.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import cache
from typing import NamedTuple

#: Seconds for which a thread waits for another job.
_PATIENCE = 5.0
#: Seconds between two looks at whether jobs are held up; one that takes longer holds up no other.
_LOOK = 0.002
#: The share of a look in which the process must have computed to be busy; looks in a row in which it has not, before
#: more threads join in: a commit takes as long as a look, and what waits for it is no reason to change threads.
_BUSY, _IDLE = 0.5, 2


class _Job(NamedTuple):
    call: Callable[[], None]
    name: str


class Crew:
    """Threads, and the jobs that wait for one. The threads end with the process, whatever they do."""

    def __init__(self, cpu: Callable[[], float] | None = None) -> None:
        """`cpu`: seconds for which this process has computed; None = as the system says."""
        self._cpu = cpu or time.process_time
        self._jobs: deque[_Job] = deque()
        #: Threads without a job; how many threads have been called to take one, and have not yet.
        self._idle = self._called = 0
        #: When each thread took the job that it does; the latest is the last.
        self._since: dict[int, float] = {}
        self._taken = 0
        #: How many young jobs there may be before a thread that has ended one rests instead of taking another.
        self._width = 1
        #: Whether there is a thread that looks whether jobs are held up, and whether it rests.
        self._is_paced = self._rests = False
        self._lock = threading.Lock()
        self._call, self._is_behind = threading.Condition(self._lock), threading.Condition(self._lock)

    @property
    def waiting(self) -> int:
        """How many jobs no thread has taken yet."""
        return len(self._jobs)

    def start(self, call: Callable[[], None], name: str) -> None:
        """Do a job soon, in a thread that bears the name meanwhile. RuntimeError: there is none, and none to be had."""
        job = _Job(call, name)
        with self._lock:
            self._jobs.append(job)
            try:
                if self._lacks() > 0:
                    self._join(1)
                else:
                    self._keep_pace()
            except RuntimeError:
                if not (self._since or self._idle):
                    self._jobs.remove(job)
                    raise

    def step_aside(self) -> None:
        """The job of the calling thread waits for others from now on: it holds up none of them."""
        with self._lock:
            if self._since.pop(threading.get_ident(), None) is not None and self._jobs and self._lacks() > 0:
                with suppress(RuntimeError):
                    self._join(1)

    # -- under the lock
    def _lacks(self) -> int:
        """How many more threads are to take jobs now, as far as there are jobs."""
        young, oldest = self._called, time.perf_counter() - _LOOK
        for since in reversed(self._since.values()):
            if since < oldest or young >= self._width:
                break
            young += 1
        return self._width - young

    def _join(self, joining: int) -> None:
        """Have so many threads more take jobs."""
        resting = min(joining, self._idle - self._called)
        if resting > 0:
            self._call.notify(resting)
            self._called += resting
        for _ in range(joining - max(0, resting)):
            threading.Thread(target=self._work, name="agentflow-crew", daemon=True).start()
            self._called += 1

    def _keep_pace(self) -> None:
        """Have somebody look, from now on, whether jobs are held up."""
        if not self._is_paced:
            threading.Thread(target=self._pace, name="agentflow-pace", daemon=True).start()
            self._is_paced = True
        elif self._rests:
            self._is_behind.notify()

    # -- threads
    def _pace(self) -> None:
        with self._lock:
            while self._jobs or self._is_behind_soon():
                idle = 0
                while self._jobs:
                    taken, wall, cpu = self._taken, time.perf_counter(), self._cpu()
                    self._is_behind.wait(_LOOK)
                    is_busy = self._cpu() - cpu > _BUSY * (time.perf_counter() - wall)
                    idle = 0 if is_busy and self._taken > taken else idle + 1
                    if not idle:
                        self._width = max(1, self._width // 2)
                    elif idle >= _IDLE:
                        self._width = min(2 * self._width, len(self._jobs) + 1)
                    with suppress(RuntimeError):  # no more threads: the jobs wait for those there are
                        self._join(min(self._lacks(), len(self._jobs)))
            self._is_paced = False

    def _is_behind_soon(self) -> bool:
        self._rests = True
        self._is_behind.wait(_PATIENCE)
        self._rests = False
        return bool(self._jobs)

    def _work(self) -> None:
        me, own, goes_on = threading.current_thread(), threading.get_ident(), False
        try:
            while (job := self._next(own, goes_on=goes_on)) is not None:
                me.name, goes_on = job.name, True
                Context().run(job.call)
        finally:
            with self._lock:
                self._since.pop(own, None)

    def _next(self, thread: int, *, goes_on: bool) -> _Job | None:
        """A job; None where there is none for long. `goes_on`: the thread has just ended one."""
        with self._lock:
            self._since.pop(thread, None)
            goes_on = goes_on and self._lacks() > 0
            while not (goes_on and self._jobs):
                self._idle += 1
                goes_on = self._call.wait_for(lambda: self._called, _PATIENCE) > 0
                self._idle -= 1
                if not goes_on:
                    return None
                self._called -= 1
            self._since[thread] = time.perf_counter()
            self._taken += 1
            return self._jobs.popleft()


@cache
def crew() -> Crew:
    """The threads of this process for the bodies of submitted tasks."""
    return Crew()


os.register_at_fork(after_in_child=crew.cache_clear)
