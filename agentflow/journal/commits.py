"""Group commit for SQLite: many threads ask, one leads, each request has a savepoint of its own.

The level is the highest that any request of the batch asks for: FULL (survives power loss) or NORMAL (survives the
death of the process). A later FULL commit makes the earlier NORMAL ones durable, too: they share one log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw

from agentflow.errors import JournalUnavailable, Unwinding
from agentflow.journal.bells import Asker, ring
from agentflow.journal.locks import Turnstile

T = TypeVar("T")
Work = Callable[[apsw.Connection], Any]
_BUSY_MS = 30_000


def connect(path: Path, vfs: str = "") -> apsw.Connection:
    """A connection at level NORMAL that leaves checkpoints to the checkpointer. `vfs`: SQLite's way to the disk."""
    db = apsw.Connection(str(path), vfs=vfs or None)
    db.set_busy_timeout(_BUSY_MS)
    if db.execute("PRAGMA journal_mode=WAL").get != "wal":
        raise apsw.CantOpenError("SQLite cannot keep a write-ahead log there")
    for pragma in (
        "synchronous=NORMAL",
        "wal_autocheckpoint=0",
        "fullfsync=ON",
        "foreign_keys=ON",
    ):
        db.execute(f"PRAGMA {pragma}").fetchall()
    return db


class _Ticket(Asker):
    __slots__ = ("durable", "error", "result", "work")

    def __init__(self, work: Work, *, durable: bool) -> None:
        super().__init__()
        self.work, self.durable = work, durable
        self.result, self.error = cast("Any", None), cast("BaseException | None", None)


class Committer:
    """The one write connection of a process."""

    def __init__(self, connection: apsw.Connection, turnstile: Turnstile) -> None:
        self.connection = connection
        self.turnstile = turnstile
        #: Held by whoever writes; a caller that finds it free may write by itself.
        self.lock = threading.Lock()
        #: Why nothing can be written any more; empty while something can.
        self.closed = ""
        #: Who waits, in order; each takes itself out.
        self._waiting: dict[_Ticket, None] = {}
        #: The level of the next transaction; None: not known, because somebody was interrupted while changing it.
        self._full: bool | None = False

    def run(self, work: Callable[[apsw.Connection], T], *, durable: bool) -> T:
        """Do `work` in a transaction (alone or with others) and return after its commit.

        What `work` raises undoes its own part only. Raises `JournalUnavailable` where the commit itself fails.
        `work` may be called twice, when the thread that led the first transaction was interrupted before its commit.
        """
        ticket = _Ticket(work, durable=durable)
        self._waiting[ticket] = None
        try:
            while not ticket.done:
                if not self.lock.acquire(blocking=False):
                    ticket.wait()  # whoever writes looks at who waits afterwards
                    continue
                try:
                    if not ticket.done:
                        self._commit([waiting for waiting in tuple(self._waiting) if not waiting.done])
                finally:
                    self._release()
        finally:
            self._waiting.pop(ticket, None)  # nobody may do it later
        if ticket.error is not None:
            raise ticket.error
        return cast("T", ticket.result)

    def try_run(self, work: Callable[[apsw.Connection], object]) -> bool:
        """Like `run` at level NORMAL, but False at once where another writer would have to be waited for."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            self.check_open()
            if not self.turnstile.try_enter():
                return False
            try:
                self._prepare(full=False)
                with self.connection:
                    work(self.connection)
            except apsw.Error as error:
                raise failed(error) from error
            finally:
                self.turnstile.leave()
        finally:
            self.lock.release()
            if self._waiting:
                ring(self._waiting)
        return True

    def try_execute(self, statement: str, values: Sequence[Any]) -> int | None:
        """`try_run` for one statement, the cheapest commit there is; None for False.

        Gives the number that it returns, or how many rows it changed.
        """
        if not self.lock.acquire(blocking=False):
            return None
        try:
            if self.closed:
                raise JournalUnavailable(self.closed)
            if not self.turnstile.try_enter():
                return None
            try:
                self._prepare(full=False)
                number: int | None = self.connection.execute(statement, values).get
                return self.connection.changes() if number is None else number
            except apsw.Error as error:
                raise failed(error) from error
            finally:
                self.turnstile.leave()
        finally:
            self.lock.release()
            if self._waiting:
                ring(self._waiting)

    def check_open(self) -> None:
        """Refuse to go on after `closed` was set."""
        if self.closed:
            raise JournalUnavailable(self.closed)

    @contextmanager
    def writing(self) -> Generator[None]:
        """Nobody else writes while the block is open; waits for that."""
        self.lock.acquire()
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self.lock.release()
        if self._waiting:
            ring(self._waiting)

    def _prepare(self, *, full: bool) -> None:
        """Leave a transaction that could not be left before, and set the level of the next one."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        if full is not self._full:
            self._full = None
            self.connection.execute(
                "PRAGMA synchronous=FULL" if full else "PRAGMA synchronous=NORMAL"
            ).fetchall()
            self._full = full

    def _commit(self, batch: list[_Ticket]) -> None:
        """Do all of `batch` in one transaction.

        Where this thread is interrupted before the commit, the others' tickets stay undone, and one of them leads.
        """
        self.check_open()
        self.turnstile.enter()
        committing = False
        try:
            self._prepare(full=any(ticket.durable for ticket in batch))
            self.connection.execute("BEGIN IMMEDIATE")
            committing = self._did(batch[0]) if len(batch) == 1 else self._did_each(batch)
            self.connection.execute("COMMIT" if committing else "ROLLBACK")
        except apsw.Error as error:
            for ticket in batch:
                ticket.error = ticket.error or failed(error)
            self._finish(batch)
            self._roll_back()
        except BaseException:
            if committing and not self.connection.in_transaction:
                self._finish(batch)
            else:
                for ticket in batch:
                    ticket.error = None
                self._roll_back()
            raise
        else:
            self._finish(batch)
        finally:
            self.turnstile.leave()

    def _did_each(self, batch: list[_Ticket]) -> bool:
        """Do what several ask for; whoever fails undoes nothing of the others. True, as something is to be kept."""
        for ticket in batch:
            self.connection.execute("SAVEPOINT request")
            if not self._did(ticket):
                self.connection.execute("ROLLBACK TO request")
            self.connection.execute("RELEASE request")
        return True

    def _did(self, ticket: _Ticket) -> bool:
        """Do what a ticket asks for; False if that raised, which is left to the asker."""
        try:
            ticket.result = ticket.work(self.connection)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.BusyError, apsw.ReadOnlyError):
            raise
        except (Exception, Unwinding) as error:  # noqa: BLE001 - belongs to the asker, who gets it
            ticket.error = failed(error) if isinstance(error, apsw.ConstraintError) else error
            return False
        return True

    def _finish(self, batch: list[_Ticket]) -> None:
        for ticket in batch:
            ticket.done = True

    def _roll_back(self) -> None:
        with suppress(apsw.Error):  # `_prepare` tries again
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


def failed(error: BaseException) -> BaseException:
    """What a failed write is called: refused, because it is there already; or stored or not, nobody knows."""
    if isinstance(error, apsw.ConstraintError):
        failure: BaseException = ValueError(f"the journal holds this already ({error})")
        failure.__cause__ = error
        return failure
    return unavailable(error)


def unavailable(error: BaseException) -> JournalUnavailable:
    """What a failed commit is called: stored or not, nobody knows."""
    if isinstance(error, apsw.FullError):
        message = "the disk that holds the journal is full; free some space, then resume the run"
    elif isinstance(error, apsw.BusyError):
        message = "another program keeps the journal locked; close it, then resume the run"
    else:
        message = f"the journal could not be written ({error}); mend that, then resume the run"
    failure = JournalUnavailable(message)
    failure.__cause__ = error
    return failure


class Checkpointer:
    """Moves committed pages from the log into the database, on a thread and a connection of its own."""

    PAGES = 1000

    def __init__(self, open_connection: Callable[[], apsw.Connection]) -> None:
        self._open = open_connection
        self._wake = threading.Event()
        self._stop = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def poke(self) -> None:
        """Say that many pages have been written."""
        with self._lock:
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._work, name="agentflow-checkpoint", daemon=True)
                self._thread.start()
        self._wake.set()

    def _work(self) -> None:
        connection: apsw.Connection | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stop:
                break
            try:
                connection = connection or self._open()
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except apsw.Error:  # a full disk shows at the next commit, to somebody who can be told
                continue
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Stop the thread."""
        with self._lock:
            self._stop = True
        if self._thread is not None:
            self._wake.set()
            self._thread.join(5)
