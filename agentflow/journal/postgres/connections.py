"""Connections that come back: dialled when they are needed, and again when the server was away.

A `Session` speaks on one connection; a `Line` has a session whenever the server can be reached.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrDumper

from agentflow.errors import JournalUnavailable
from agentflow.journal.postgres.address import Address, is_starting
from agentflow.journal.postgres.patience import PatientConnection

T = TypeVar("T")
Row = tuple[Any, ...]
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
#: Beyond three delays of its log writer, after which PostgreSQL promises to have written.
_MARGIN = 3.0
_LEVELS = b"""SELECT current_setting('synchronous_commit'),
  (SELECT CAST(setting AS DOUBLE PRECISION) FROM pg_settings WHERE name = 'wal_writer_delay')"""
_GONE = (
    errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.IdleInTransactionSessionTimeout,
    errors.IdleSessionTimeout,
    errors.ReadOnlySqlTransaction,  # a standby
    errors.FeatureNotSupported,  # a newer agentflow has changed the schema, and statements are to be prepared anew
)  # fmt: skip
AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
"""The server has undone the transaction so that another one can end: it can simply be done again."""


class _Whole(Int8BinaryDumper):
    """Truth values are numbers in our tables."""


class _Text(StrDumper):
    """PostgreSQL's texts cannot hold one character (names, messages and logs are texts; values are bytes)."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\N{SYMBOL FOR NULL}") if "\0" in obj else obj)


class Session:
    """Statements on one connection; answers are read at once."""

    __slots__ = ("_cursor", "_in_one_go", "connection", "level", "now", "unflushed")

    def __init__(self, connection: PatientConnection) -> None:
        # one type for each kind of value, so that a statement is prepared once
        connection.adapters.register_dumper(int, _Whole)
        connection.adapters.register_dumper(bool, _Whole)
        connection.adapters.register_dumper(str, _Text)
        self.connection = connection
        #: The database's time when the transaction began.
        self.now = 0.0
        self._in_one_go = False
        self._cursor = connection.cursor(binary=True)
        row = self.one(_LEVELS)
        level, delay = ("on", 200.0) if row is None else row
        #: The ``synchronous_commit`` of what must be durable: the server's own, unless that is none.
        self.level = "on" if level == "off" else str(level)
        #: Seconds after which the server has put to disk whatever it acknowledged.
        self.unflushed = 3 * float(delay) / 1000 + _MARGIN

    def do(self, statement: bytes, values: Sequence[Any] = ()) -> int:
        """Execute a statement; how many rows it changed or found."""
        return self._executed(statement, values).rowcount

    def _executed(self, statement: bytes, values: Sequence[Any]) -> psycopg.Cursor[Row]:
        cursor = self.connection.cursor(binary=True) if self._in_one_go else self._cursor
        return cursor.execute(statement, values)

    def later(self, statement: bytes, values: Sequence[Any]) -> psycopg.Cursor[Row]:
        """Execute a statement of a block `in_one_go`, after which its answer can be read."""
        return self._executed(statement, values)

    @contextmanager
    def in_one_go(self) -> Generator[None, None, None]:
        """Send the statements of the block together, and wait for their answers once, at its end."""
        self._in_one_go, first = True, cast("psycopg.Error | None", None)
        try:
            with self.connection.pipeline():
                try:
                    yield
                except (
                    psycopg.Error
                ) as error:  # of a statement; left to itself, the pipeline logs what follows from it
                    first = error
        except psycopg.Error as error:
            raise first or error from None
        finally:
            self._in_one_go = False
        if first is not None:
            raise first

    def each(self, statement: bytes, rows: Iterable[Sequence[Any]]) -> psycopg.Cursor[Row]:
        """Execute a statement for each of `rows`, in one go; what counts the rows that it changed."""
        cursor = self.connection.cursor(binary=True)
        cursor.executemany(statement, list(rows))
        return cursor

    def all(self, statement: bytes, values: Sequence[Any] = ()) -> list[Row]:
        """All rows that a statement finds."""
        return self._executed(statement, values).fetchall()

    def one(self, statement: bytes, values: Sequence[Any] = ()) -> Row | None:
        """The first row that a statement finds."""
        return self._executed(statement, values).fetchone()

    def value(self, statement: bytes, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.one(statement, values)
        return None if row is None else row[0]

    def is_lost(self, error: BaseException) -> bool:
        """Whether `error` leaves open what became of a statement: the connection, or the server, is of no use any more.

        Where it is not the server that refuses (`sqlstate`), and not our own values, the reply was lost.
        """
        return self.connection.closed or is_cut_off(error)

    def close(self) -> None:
        """Hang up."""
        with suppress(psycopg.Error, OSError):
            self.connection.close()


class Line:
    """A session with the server whenever it is there; used by whoever holds `lock`.

    `silence`: seconds after which a server that says nothing is given up; default: a lease, for which somebody who is
    frozen may hold a lock, or `patience`, whichever is longer.
    """

    def __init__(self, address: Address, lease: float, patience: float, *, silence: float = 0.0) -> None:
        self.lock = threading.Lock()
        #: Why nothing can be done any more; empty while something can.
        self.closed = ""
        #: How often a new connection was made.
        self.dialled = 0
        self.patience = patience
        self.silence = silence or max(lease, patience)
        self._address, self._lease = address, lease
        self._hang_up = threading.Event()
        self._session: Session | None = None

    def dial(self, seconds: float = 10.0) -> Session:
        """Make the connection, once, in so many seconds. Raises `psycopg.Error`."""
        connection = self._address.dial(self._lease, patience=self.silence, seconds=seconds)
        self._session = Session(connection)
        self._session.do(b"SET synchronous_commit = off")
        self.dialled += 1
        return self._session

    def first(self) -> Session:
        """The first session; a server that is just starting is waited for. Raises `psycopg.Error`."""
        deadline = self.deadline()
        while True:
            try:
                return self.dial()
            except psycopg.Error as error:
                if not is_starting(error) or time.monotonic() > deadline:
                    raise
            self._hang_up.wait(_LONGEST_PAUSE / 4)

    def session(self, deadline: float) -> Session:
        """The session; where there is none, it is dialled until `deadline`. Raises `JournalUnavailable`."""
        pause = _FIRST_PAUSE
        while True:
            self.check_open()
            if self._session is not None:
                return self._session
            try:
                return self.dial(deadline - time.monotonic())
            except psycopg.Error as error:
                if time.monotonic() + pause > deadline:
                    raise self.unreachable(error) from error
            self._hang_up.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def deadline(self) -> float:
        """Until when a verb that begins now tries to reach the server."""
        return time.monotonic() + self.patience

    def has_session(self) -> bool:
        """Whether it need not be dialled first."""
        return self._session is not None

    def drop(self) -> None:
        """Give the connection up; the next user dials."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def unreachable(self, error: BaseException) -> JournalUnavailable:
        """What it is called when the server was away for too long."""
        refusal = self._address.refusal(error)
        return JournalUnavailable(f"{refusal} (tried for {self.patience:g} s), then resume the run")

    def check_open(self) -> None:
        """Refuse to go on after `closed` was set."""
        if self.closed:
            raise JournalUnavailable(self.closed)

    def read(self, look: Callable[[Session], T]) -> T:
        """What `look` finds; it is called again where the connection was lost meanwhile."""
        deadline = self.deadline()
        with self.lock:
            while True:
                session = self.session(deadline)
                try:
                    return look(session)
                except psycopg.Error as error:
                    lost = session.is_lost(error)
                    self.drop()
                    if not lost:
                        raise failed(error) from error
                    if time.monotonic() > deadline:
                        raise self.unreachable(error) from error
                except BaseException:  # interrupted: what the server still answers to this is nobody's
                    self.drop()
                    raise

    def close(self, why: str) -> None:
        """End it; whoever waits for the server is refused."""
        self.closed = self.closed or why
        self._hang_up.set()
        with self.lock:
            self.drop()

    def leave_to_parent(self, why: str) -> None:
        """Forbid its use in a forked process, without a word to the server, whose session is the parent's."""
        self.closed = why
        self.lock = threading.Lock()
        _inherited.append(self._session)
        self._session = None


def is_cut_off(error: BaseException) -> bool:
    """Whether it is the connection, or the server as a whole, that failed: it refused nothing, the reply was lost."""
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and error.sqlstate is None:
        return True
    return isinstance(error, _GONE)


def unreadable(error: psycopg.Error) -> JournalUnavailable:
    """What it is called when all of the journal was to be read, and was not."""
    reason = _reason(error)
    return JournalUnavailable(
        f"the journal could not be read ({reason}); see that its server runs, and try again"
    )


def failed(error: psycopg.Error) -> BaseException:
    """What a refused statement is called: what it would store is there already; or it cannot be done now."""
    if isinstance(error, errors.IntegrityError):
        return ValueError(f"the journal holds this already ({error.diag.message_primary})")
    reason = _reason(error)
    if isinstance(error, errors.DiskFull):
        return JournalUnavailable(
            f"the disk of the journal's server is full ({reason}); free some space, then resume"
        )
    return JournalUnavailable(f"the journal could not be used ({reason}); mend that, then resume the run")


def _reason(error: psycopg.Error) -> str:
    """In one line."""
    return error.diag.message_primary or str(error).partition("\n")[0]


_inherited: list[Session | None] = []
"""Kept, so that nothing is said on connections of the parent when they are collected."""
