"""What all verbs of the SQLite journal share: the connections, the group commit, the listeners. No verb of a noun."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import apsw

from agentflow.errors import Fenced, JournalOpenError, JournalUnavailable, RunNotFoundError
from agentflow.journal.commits import Checkpointer, Committer, connect
from agentflow.journal.locks import Ownership, Turnstile
from agentflow.journal.rows import run_from
from agentflow.journal.schema import migrate
from agentflow.journal.sql import queries
from agentflow.model.runs import Run

T = TypeVar("T")
SQL = queries()
_FORKED = (
    "a forked process cannot use its parent's journal; call tasks in the parent, or start processes by spawn"
)
LOST = "another process has taken this run over"


class SqliteBase:
    """An open journal file."""

    def __init__(
        self, path: Path, key: bytes, *, clock: Callable[[], float] = time.time, vfs: str = ""
    ) -> None:
        self.key, self.path, self._vfs = key, path, vfs
        self.url = self.address = f"sqlite:///{path}"
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._clock = clock
        try:
            self._open()
        except (OSError, apsw.Error) as error:
            reason = str((isinstance(error, OSError) and error.strerror) or error)
            advice = "set AGENTFLOW_HOME to a folder you can write to"
            if isinstance(error, (apsw.CorruptError, apsw.NotADBError)) or "malformed" in reason:
                advice = "it is damaged: put a copy of it back, or set AGENTFLOW_HOME to another folder"
            message = f"cannot open the journal {path}: {reason}; {advice}"
            raise JournalOpenError(message) from error
        self._read_lock = threading.Lock()
        self._checkpointer = Checkpointer(self._connect)
        self._pages = 0
        self._listeners: list[Callable[[], None]] = []
        self._closed = False
        _journals.add(self)

    def _open(self) -> None:
        path = self.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ExitStack() as undo:
            self._ownership = Ownership(path.with_name(path.name + "-owners"))
            undo.callback(self._ownership.close)
            turnstile = Turnstile(path.with_name(path.name + "-turn"))
            undo.callback(turnstile.close)
            turnstile.enter()  # SQLite does not wait for another process that makes the same file a WAL database
            writer = self._connect()
            undo.callback(writer.close)
            migrate(writer, str(path))
            self._reader = self._connect()
            turnstile.leave()
            undo.pop_all()
        self._committer = Committer(writer, turnstile)

    @property
    def identity(self) -> str:
        return str(self._one(SQL["identity"])[0])

    @property
    def beside(self) -> Path:
        return self.path.with_name(self.path.name + "-payloads")

    def _connect(self) -> apsw.Connection:
        return connect(self.path, self._vfs)

    def version(self) -> int:
        with self._read_lock:
            return int(self._reader.pragma("data_version"))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def hears(self) -> bool:
        return False

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._checkpointer.close()
        with self._committer.writing(), self._read_lock:
            for connection in (self._reader, self._committer.connection):
                with suppress(apsw.Error):  # what could not be moved out of the log stays in it
                    connection.close()
            self._committer.turnstile.close()
            self._ownership.close()
            self._committer.closed = "the journal is closed"

    def leave_to_parent(self) -> None:
        """Forbid its use in a forked process: SQLite's connections and locks belong to the process before the fork."""
        self._committer.lock, self._read_lock = threading.Lock(), threading.Lock()
        self._committer.closed = _FORKED
        self._closed = True

    def _commit(self, work: Callable[[apsw.Connection], T], *, durable: bool = False) -> T:
        result = self._committer.run(work, durable=durable)
        self._count(1)
        return result

    def _count(self, rows: int) -> None:
        self._pages += rows
        if self._pages >= Checkpointer.PAGES:
            self._pages = 0
            self._checkpointer.poke()

    def _notify(self) -> None:
        for callback in tuple(self._listeners):
            callback()

    def _need_run(self, db: apsw.Connection, run_id: str) -> Run:
        row = db.execute(SQL["run_by_id"], (run_id,)).get
        if row is None:
            raise RunNotFoundError(run_id)
        return run_from(row)

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._read_lock:
            self._committer.check_open()
            try:
                return self._reader.execute(sql, values).fetchall()
            except apsw.Error as error:
                raise unreadable(error) from error

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        rows = self._all(sql, values)
        return rows[0] if rows else None


def unreadable(error: apsw.Error) -> JournalUnavailable:
    """What a read is called that failed."""
    return JournalUnavailable(f"the journal could not be read ({error}); look at it with: agentflow db check")


def executing(db: apsw.Connection) -> Callable[[str, Sequence[Sequence[Any]]], object]:
    """What executes a named statement once with each of the parameters."""
    return lambda name, rows: db.executemany(SQL[name], rows)


def check_epoch(db: apsw.Connection, number: int, epoch: int) -> None:
    """Refuse a write of a stale owner."""
    if db.execute(SQL["run_epoch"], (number,)).get != epoch:
        raise Fenced(LOST)


_journals: WeakSet[SqliteBase] = WeakSet()


def _leave_to_parent() -> None:
    for journal in tuple(_journals):
        journal.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
