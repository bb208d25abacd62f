"""File locks beside an embedded journal: who owns a run, and whose turn it is to write.

Ownership is a POSIX lock on one byte for each claim of a run, held for the owner's life: the system frees it at the
moment the process dies, and clocks do not matter. The turnstile keeps writers of several processes from starving each
other in SQLite's busy polling.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
from pathlib import Path
from weakref import WeakSet

_LINUX = sys.platform.startswith("linux")
# struct flock, whose members stand in another order on BSD systems
_FLOCK = struct.Struct("hhqqi0q") if _LINUX else struct.Struct("qqihh0q")
_EPOCH_BITS = 24


class _LockFile:
    """This process's one descriptor of a file of POSIX locks: closing any other one would free them all."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 0
        #: Locks of this process, which F_GETLK does not tell of and a second lockf would simply grant.
        self.held: set[int] = set()


_files: dict[tuple[int, int], _LockFile] = {}
_files_lock = threading.Lock()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class Ownership:
    """The runs that a journal owns, as byte locks in one file.

    Each claim of a run has a byte of its own, found from the run's number and epoch. So a take-over needs nothing from
    the owner before, and what that one lets go of, or its death, leaves the new owner's lock alone.
    """

    def __init__(self, path: Path) -> None:
        with _files_lock:
            try:
                known = _files.get(_identity(path.stat()))
            except FileNotFoundError:
                known = None
            if known is None:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                known = _files[_identity(os.fstat(descriptor))] = _LockFile(descriptor)
            known.users += 1
        self._file = known
        self._mine: set[int] = set()
        self._open = True

    def acquire(self, number: int, epoch: int) -> bool:
        """Own a run from that epoch on; False if this claim of it is held already, and after `close`."""
        byte = _byte(number, epoch)
        with _files_lock:
            if byte in self._file.held or not self._open:
                return False
            try:
                fcntl.lockf(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except OSError:
                return False
            self._file.held.add(byte)
            self._mine.add(byte)
            return True

    def claims(self) -> list[int]:
        """The claims that are this journal's, as `_byte` counts them; ``due_runs`` in SQL counts alike."""
        with _files_lock:
            return list(self._mine)

    def release(self, number: int, epoch: int) -> None:
        """Let go of that claim, if it is this journal's."""
        byte = _byte(number, epoch)
        with _files_lock:
            if byte in self._mine:
                self._free(byte)

    def is_held(self, number: int, epoch: int) -> bool:
        """Whether a live process holds that claim of the run. Epoch 0 is none: nobody has claimed it yet."""
        if not epoch:
            return False
        byte = _byte(number, epoch)
        return byte in self._file.held or self._is_locked(byte)

    def _is_locked(self, byte: int) -> bool:
        if _LINUX:
            query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        else:
            query = _FLOCK.pack(byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
        answer = _FLOCK.unpack(fcntl.fcntl(self._file.descriptor, fcntl.F_GETLK, query))
        return answer[0 if _LINUX else 3] != fcntl.F_UNLCK

    def _free(self, byte: int) -> None:
        self._mine.discard(byte)
        self._file.held.discard(byte)
        fcntl.lockf(self._file.descriptor, fcntl.LOCK_UN, 1, byte)

    def close(self) -> None:
        """Free all that are this journal's."""
        with _files_lock:
            if not self._open:
                return
            self._open = False
            for byte in tuple(self._mine):
                self._free(byte)
            self._file.users -= 1
            if self._file.users == 0:
                for identity in [key for key, file in _files.items() if file is self._file]:
                    del _files[identity]
                os.close(self._file.descriptor)
                self._file.descriptor = -1


def _byte(number: int, epoch: int) -> int:
    return number << _EPOCH_BITS | epoch & (1 << _EPOCH_BITS) - 1


class Turnstile:
    """One writer at a time among processes, in the order the system wakes them."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _turnstiles.add(self)

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


_turnstiles: WeakSet[Turnstile] = WeakSet()


def _let_go_in_child() -> None:
    """After a fork: the child owns nothing, and must not keep a dead parent's turn by a descriptor it inherited."""
    global _files_lock  # noqa: PLW0603 - another thread may have held it at the fork
    _files_lock = threading.Lock()
    for file in _files.values():
        os.close(file.descriptor)
        file.descriptor = -1
        file.held.clear()
    _files.clear()
    for turnstile in tuple(_turnstiles):
        turnstile.close()


os.register_at_fork(after_in_child=_let_go_in_child)
