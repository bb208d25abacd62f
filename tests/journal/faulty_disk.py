"""A disk that fails at a chosen write or sync, below SQLite; and the child processes that it fails in.

Used by the drivers only: what is forked here must come from a process without threads and without an open journal.
"""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import apsw

NAME = "agentflow-faulty"


class Mode(StrEnum):
    """What happens at the chosen operation."""

    KILL = "kill"
    POWER = "power"
    """The process dies, and of all that was not synced a part is lost: torn, reordered, or all of it."""
    IO = "io"
    FULL = "full"


class Unsynced(NamedTuple):
    """A write that the disk may still forget: where it went, and what was there before."""

    file: FaultyFile
    offset: int
    before: bytes
    length: int
    size: int


class Plan:
    """When and how the disk of this process fails."""

    count = 0
    at = 0
    mode = Mode.IO
    #: For how many operations the failure lasts, from `at` on.
    lasts = 1
    unsynced: tuple[Unsynced, ...] = ()
    #: The share of unsynced writes that power loss undoes.
    share = 0.7

    @classmethod
    def tick(cls, operation: str) -> None:
        """Count an operation; fail if it is the chosen one."""
        cls.count += 1
        if not cls.at <= cls.count < cls.at + cls.lasts:
            return
        if cls.mode is Mode.POWER:
            cls.lose_power()
        if cls.mode in (Mode.KILL, Mode.POWER):
            os.kill(os.getpid(), signal.SIGKILL)
        raise apsw.FullError(operation) if cls.mode is Mode.FULL else apsw.IOError(operation)

    @classmethod
    def lose_power(cls) -> None:
        """Undo a seeded part of what was not synced, the youngest first."""
        dice = random.Random(cls.at)
        for write in reversed(cls.unsynced):
            if dice.random() < cls.share:
                write.file.undo(write)


class FaultyFile(apsw.VFSFile):
    """A file of the faulty disk."""

    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        Plan.tick("write")
        size, length = self.xFileSize(), len(data)
        before = bytes(self.xRead(min(length, size - offset), offset)) if offset < size else b""
        Plan.unsynced = (*Plan.unsynced, Unsynced(self, offset, before, length, size))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        Plan.tick("sync")
        Plan.unsynced = tuple(write for write in Plan.unsynced if write.file is not self)
        super().xSync(flags)

    def undo(self, write: Unsynced) -> None:
        if write.before:
            super().xWrite(write.before, write.offset)
        if write.offset + write.length > write.size and self.xFileSize() == write.offset + write.length:
            super().xTruncate(write.size)


class FaultyDisk(apsw.VFS):
    """SQLite's own way to the disk, with `Plan` in between."""

    def __init__(self) -> None:
        super().__init__(NAME, "")

    def xOpen(self, name: Any, flags: list[int]) -> FaultyFile:  # noqa: N802 - SQLite's name
        return FaultyFile(name, flags)


def child(body: Callable[[], object]) -> int:
    """Run `body` in a forked process; its exit status, negative for a signal, 3 where it raised."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            body()
            code = 0
        except BaseException:  # noqa: BLE001 - the child is told from its parent by its exit status alone
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
