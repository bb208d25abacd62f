"""Threads for the lives of runs: one that has ended a life takes the next, as a new thread costs more than a step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context

#: Seconds for which a thread waits for another life.
_PATIENCE = 5.0


class Crew:
    """As many threads as there are jobs at once. They end with the process, whatever they do."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], None], str]] = deque()
        #: Threads without a job.
        self._idle = 0
        self._changed = threading.Condition(threading.Lock())

    def start(self, job: Callable[[], None], name: str) -> None:
        """Do `job` in a thread that bears the name meanwhile. RuntimeError: the system gives no more threads."""
        with self._changed:
            if len(self._jobs) < self._idle:
                self._jobs.append((job, name))
                self._changed.notify()
                return
        threading.Thread(target=self._do, args=(job, name), daemon=True).start()

    def _do(self, job: Callable[[], None], name: str) -> None:
        following: tuple[Callable[[], None], str] | None = job, name
        while following is not None:
            call, threading.current_thread().name = following
            Context().run(call)
            following = self._next()

    def _next(self) -> tuple[Callable[[], None], str] | None:
        """A job; None where there is none for long."""
        with self._changed:
            self._idle += 1
            has_come = self._changed.wait_for(lambda: self._jobs, _PATIENCE)
            self._idle -= 1
            return self._jobs.popleft() if has_come else None
