"""Ends of runs that are recorded together: where many runs are short, most of what one costs is its last commit.

A life whose code has ended stops before that commit, and its thread takes the next one. An end waits for others only
while lives wait for a thread, and for no longer than a moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from agentflow.journal.protocol import EndsRunsTogether, RunEnd

Told = Callable[[BaseException | None], None]
"""Called once an end is recorded, or with what it was refused with."""

#: Ends after which no more are waited for, and seconds.
_MOST, _MOMENT = 64, 0.02
#: Seconds for which the thread waits for another end.
_PATIENCE = 5.0


class _Waiting(NamedTuple):
    end: RunEnd
    told: Told


class Ends:
    """Those of one worker. `more`: whether others may be about to come."""

    def __init__(self, journal: EndsRunsTogether, more: Callable[[], bool]) -> None:
        self._journal, self._more = journal, more
        self._waiting: list[_Waiting] = []
        #: When the first of them came.
        self._since = 0.0
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._is_watched = False

    def add(self, end: RunEnd, told: Told) -> None:
        """Have an end recorded: now, with those that wait, or in a moment."""
        with self._lock:
            self._waiting.append(_Waiting(end, told))
            if len(self._waiting) == 1:
                self._since = time.monotonic()
            if len(self._waiting) < _MOST and self._more() and self._watch():
                return
        self._record()

    def _record(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        refusals: list[BaseException | None]
        try:
            refusals = self._journal.end_runs([one.end for one in waiting])
        except BaseException as error:
            refusals = [error] * len(waiting)
        with ExitStack() as everybody:  # is told, whatever that comes to with others
            for one, refusal in zip(waiting, refusals, strict=True):
                everybody.callback(one.told, refusal)

    def _watch(self) -> bool:
        """Have somebody see to it that what waits is recorded in a moment; False: there is no thread to be had."""
        if self._is_watched:
            if len(self._waiting) == 1:
                self._came.notify()
            return True
        try:
            threading.Thread(target=self._work, name="agentflow-ends", daemon=True).start()
        except RuntimeError:
            return False
        self._is_watched = True
        return True

    def _work(self) -> None:
        while self._has_some():
            self._record()

    def _has_some(self) -> bool:
        """Whether something has waited for long enough; False where nothing comes any more."""
        with self._lock:
            while not self._waiting:
                if not self._came.wait(_PATIENCE) and not self._waiting:
                    self._is_watched = False
                    return False
            while self._waiting and (left := self._since + _MOMENT - time.monotonic()) > 0:
                self._came.wait(left)
            return True
