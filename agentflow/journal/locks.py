"""File locks beside an embedded journal: who owns a run, and whose turn it is to write.

Ownership is a POSIX lock on one byte per run, held for the owner's life: the system frees it at the moment the process
dies, and clocks do not matter. The turnstile keeps writers of several processes from starving each other in SQLite's
busy polling.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
from pathlib import Path

_LINUX = sys.platform.startswith("linux")
# struct flock, whose members stand in another order on BSD systems
_FLOCK = struct.Struct("hhqqi0q") if _LINUX else struct.Struct("qqihh0q")


class Ownership:
    """The runs that this process owns, as byte locks in one file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mine: set[int] = set()
        self._lock = threading.Lock()

    def acquire(self, number: int) -> bool:
        """Own a run; False if another process does, or this one already."""
        with self._lock:
            if number in self._mine:
                return False
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                return False
            self._mine.add(number)
            return True

    def adopt(self, number: int) -> None:
        """Count a run as owned although its lock may be held elsewhere (a take-over: the epoch fences the other)."""
        if not self.acquire(number):
            with self._lock:
                self._mine.add(number)

    def release(self, number: int) -> None:
        """Own it no longer."""
        with self._lock:
            if number in self._mine:
                self._mine.discard(number)
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)

    def is_mine(self, number: int) -> bool:
        """Whether this process owns the run."""
        return number in self._mine

    def is_held(self, number: int) -> bool:
        """Whether any live process owns the run."""
        return number in self._mine or self._holder(number) is not None

    def _holder(self, number: int) -> int | None:
        if _LINUX:
            query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        else:
            query = _FLOCK.pack(number, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
        answer = _FLOCK.unpack(fcntl.fcntl(self._descriptor, fcntl.F_GETLK, query))
        kind, pid = (answer[0], answer[4]) if _LINUX else (answer[3], answer[2])
        return None if kind == fcntl.F_UNLCK else pid

    def close(self) -> None:
        """Free all."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._mine.clear()


class Turnstile:
    """One writer at a time among processes, in the order the system wakes them."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def enter(self) -> None:
        """Wait for this process's turn."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def try_enter(self) -> bool:
        """Take the turn if nobody has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go for good."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
