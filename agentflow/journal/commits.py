"""Group commit for SQLite: many threads ask, one leads, each request has a savepoint of its own.

The level is the highest that any request of the batch asks for: FULL (survives power loss) or NORMAL (survives the
death of the process). A later FULL commit makes the earlier NORMAL ones durable, too: they share one log.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

import apsw

from agentflow.errors import JournalUnavailable
from agentflow.journal.locks import Turnstile

T = TypeVar("T")
Work = Callable[[apsw.Connection], Any]


class _Ticket:
    __slots__ = ("done", "durable", "error", "result", "work")

    def __init__(self, work: Work, *, durable: bool) -> None:
        self.work, self.durable = work, durable
        self.done, self.result, self.error = False, cast("Any", None), cast("BaseException | None", None)


class Committer:
    """The one write connection of a process."""

    def __init__(self, connection: apsw.Connection, turnstile: Turnstile) -> None:
        self.connection = connection
        self.turnstile = turnstile
        #: Held by whoever writes; a caller that finds it free may write a single row by itself.
        self.lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._full = False
        #: Commits so far, for the checkpointer.
        self.commits = 0

    def run(self, work: Callable[[apsw.Connection], T], *, durable: bool) -> T:
        """Do `work` in a transaction (alone or with others) and return after its commit.

        What `work` raises undoes its own part only. Raises `JournalUnavailable` where the commit itself fails.
        """
        ticket = _Ticket(work, durable=durable)
        self._waiting.append(ticket)
        with self.lock:
            if not ticket.done:
                batch: list[_Ticket] = []
                while self._waiting:
                    batch.append(self._waiting.popleft())
                self._commit(batch)
        if ticket.error is not None:
            raise ticket.error
        return cast("T", ticket.result)

    def set_level(self, *, full: bool) -> None:
        """The level of the next transaction; to be called under `lock`."""
        if full is not self._full:
            self.connection.execute(
                "PRAGMA synchronous=FULL" if full else "PRAGMA synchronous=NORMAL"
            ).fetchall()
            self._full = full

    def _commit(self, batch: list[_Ticket]) -> None:
        self.turnstile.enter()
        try:
            self.set_level(full=any(ticket.durable for ticket in batch))
            self.connection.execute("BEGIN IMMEDIATE")
            for ticket in batch:
                self._one(ticket)
            self.connection.execute("COMMIT")
            self.commits += len(batch)
        except apsw.Error as error:
            self._fail(batch, error)
        except BaseException as error:
            self._fail(batch, error)
            raise
        finally:
            self.turnstile.leave()
            for ticket in batch:
                ticket.done = True

    def _one(self, ticket: _Ticket) -> None:
        connection = self.connection
        connection.execute("SAVEPOINT request")
        try:
            ticket.result = ticket.work(connection)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.BusyError, apsw.ReadOnlyError):
            raise
        except BaseException as error:  # noqa: BLE001 - belongs to the asker, who gets it
            ticket.error = error
            connection.execute("ROLLBACK TO request")
        connection.execute("RELEASE request")

    def _fail(self, batch: list[_Ticket], error: BaseException) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        for ticket in batch:
            ticket.error = unavailable(error) if isinstance(error, apsw.Error) else error


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
        self._thread: threading.Thread | None = None

    def poke(self) -> None:
        """Say that many pages have been written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="agentflow-checkpoint", daemon=True)
            self._thread.start()
        self._wake.set()

    def _work(self) -> None:
        connection = self._open()
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stop:
                connection.close()
                return
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except apsw.Error:  # a full disk shows at the next commit, to somebody who can be told
                continue

    def close(self) -> None:
        """Stop the thread."""
        if self._thread is not None:
            self._stop = True
            self._wake.set()
            self._thread.join(5)
