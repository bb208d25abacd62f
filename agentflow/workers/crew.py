"""Threads for the lives of runs: as few as keep things moving, and one for each life that stands still.

A short life costs less than a new thread, and threads that all have something to do only take the interpreter's lock
from each other. So a few threads do one life after another. When none of them has begun one for a moment, because
what they do takes long or waits, more are added, until each life has its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

#: Threads that need no reason.
_FEW = 4
#: Seconds without a beginning after which more threads are added.
_MOMENT = 0.005
#: Seconds for which a thread waits for another life.
_PATIENCE = 5.0


class Crew:
    """Does jobs in threads, which end with the process, whatever they do."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], None], str]] = deque()
        lock = threading.Lock()
        self._work, self._moment = threading.Condition(lock), threading.Condition(lock)
        #: Threads; those of them without a job; jobs that have begun.
        self._all = self._idle = self._begun = 0
        self._overseen = False

    def start(self, job: Callable[[], None], name: str) -> None:
        """Do `job` soon, in a thread that bears the name meanwhile. RuntimeError: the system gives no thread."""
        with self._work:
            self._jobs.append((job, name))
            try:
                if len(self._jobs) <= self._idle:
                    self._work.notify()
                elif self._all < _FEW:
                    self._add()
                else:
                    self._oversee()
            except RuntimeError:
                if not self._all:
                    self._jobs.pop()
                    raise

    def _add(self) -> None:
        threading.Thread(target=self._do, daemon=True).start()
        self._all += 1

    def _do(self) -> None:
        try:
            while (job := self._next()) is not None:
                call, threading.current_thread().name = job
                Context().run(call)
        finally:
            with self._work:
                self._all -= 1

    def _next(self) -> tuple[Callable[[], None], str] | None:
        """A job, which begins; None where there is none for long."""
        with self._work:
            self._idle += 1
            has_come = self._work.wait_for(lambda: self._jobs, _PATIENCE)
            self._idle -= 1
            if not has_come:
                return None
            self._begun += 1
            return self._jobs.popleft()

    def _oversee(self) -> None:
        if not self._overseen:
            threading.Thread(target=self._add_in_need, name="agentflow-overseer", daemon=True).start()
            self._overseen = True

    def _add_in_need(self) -> None:
        begun, more = -1, 1
        with self._work:
            while self._jobs:
                if self._begun == begun:
                    with suppress(RuntimeError):  # once more in a moment
                        for _ in range(min(more, len(self._jobs))):
                            self._add()
                    more *= 2
                else:
                    more = 1
                begun = self._begun
                self._moment.wait(_MOMENT)
            self._overseen = False
