"""Commits to PostgreSQL: rows of many threads in one transaction and one round trip; every other write exactly once.

A lost connection is dialled anew, and what was under way is done again. Rows can be repeated, because they are known by
their ids; any other write leaves a receipt in its own transaction, which tells afterwards whether it was committed.

Rows of pure steps are acknowledged before they are on the server's disk (``synchronous_commit = off``). Should the
server crash then, this process still has them, and writes them again. What must be durable waits for the disk.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar, cast

import psycopg
from psycopg import errors

from agentflow.errors import Fenced, JournalUnavailable, Unwinding
from agentflow.journal.bells import Asker, ring
from agentflow.journal.postgres.connections import AGAIN, Line, Row, Session, failed
from agentflow.journal.postgres.statements import SQL
from agentflow.model.steps import StepRow

T = TypeVar("T")
LOST = "another process has taken this run over"
_STALE = "AF001"
#: Seconds for which a server may say nothing while an event loop stands still for it.
_MOMENT = 2.0


class End(NamedTuple):
    """Parameters of the statement that ends a run where nothing need be looked at, and of one that tells if it did."""

    values: Sequence[Any]
    has_ended: Sequence[Any]


class Append(Asker):
    """Rows of a run, and statements that are committed with them; or the end of a run."""

    __slots__ = ("durable", "end", "epoch", "error", "in_doubt", "more", "number", "rows", "took")

    def __init__(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        more: Sequence[tuple[bytes, Sequence[Sequence[Any]]]] = (),
        *,
        durable: bool = False,
        end: End | None = None,
    ) -> None:
        super().__init__()
        self.number, self.epoch, self.rows, self.more, self.durable = number, epoch, rows, more, durable
        self.end = end
        #: Whether it has ended by that.
        self.took = False
        #: Whether it may be stored already.
        self.in_doubt = False
        self.error = cast("BaseException | None", None)


class Committer:
    """The one write connection of a process."""

    def __init__(self, line: Line) -> None:
        self.line = line
        #: By this its receipts, and the news that it sends, are known.
        self.writer = secrets.token_hex(8)
        self._serial = 0
        #: Who waits, in order; each takes itself out.
        self._waiting: dict[Append, None] = {}
        #: What was acknowledged and may not be on the server's disk, with the time at which it will be.
        self._recent: deque[tuple[float, Append]] = deque()
        self._restored = line.dialled
        #: First rows of what may be stored: `try_append` was cut off.
        self._doubtful: set[int] = set()

    # -- rows
    def append(self, request: Append) -> None:
        """Store it, alone or with others. Raises `Fenced`, ValueError (a row is there), `JournalUnavailable`."""
        if request.rows and request.rows[0].id in self._doubtful:
            self._doubtful.discard(request.rows[0].id)
            request.in_doubt = True
        deadline = self.line.deadline()
        self._waiting[request] = None
        try:
            while not request.done:
                if not self.line.lock.acquire(blocking=False):
                    request.wait()  # whoever writes looks at who waits afterwards
                    continue
                try:
                    if not request.done:
                        self._lead(
                            [waiting for waiting in tuple(self._waiting) if not waiting.done], deadline
                        )
                finally:
                    self._release()
        finally:
            self._waiting.pop(request, None)  # nobody may do it later
        if request.error is not None:
            raise request.error

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        """Store rows of a run; False at once where another writer, or the server, would have to be waited for."""
        if rows[0].id in self._doubtful or not self.line.lock.acquire(blocking=False):
            return False
        try:
            self.line.check_open()
            if not self.line.has_session() or self._restored != self.line.dialled:
                return False
            session = self.line.session(0.0)
            session.connection.patience = _MOMENT
            try:
                stored = _store_fenced(session, epoch, rows)
            except Exception as error:  # noqa: BLE001 - looked at, and raised
                return self._not_stored(session, error, rows)
            except BaseException:
                self.line.drop()
                raise
            finally:
                session.connection.patience = self.line.silence
            if not stored:
                raise Fenced(LOST)
            self._remember(session, [Append(number, epoch, rows)])
            return True
        finally:
            self._release()

    def _not_stored(self, session: Session, error: Exception, rows: Sequence[StepRow]) -> bool:
        if session.is_lost(error):
            self.line.drop()
            self._doubtful.add(rows[0].id)
            return False
        _roll_back(session)
        if isinstance(error, (errors.LockNotAvailable, *AGAIN)):
            return False
        raise named(error)

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Nobody else writes while the block is open."""
        self.line.lock.acquire()
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self.line.lock.release()
        if self._waiting:
            ring(self._waiting)

    def _lead(self, batch: list[Append], deadline: float) -> None:
        """Store all of `batch`. Where this thread is interrupted, each of the others finds out how far that was."""
        try:
            if not self._together(batch, deadline):
                for request in batch:
                    self._alone(request, deadline)
        except JournalUnavailable as error:
            for request in batch:
                if not request.done:
                    request.done, request.error = True, JournalUnavailable(str(error))
        except BaseException:
            self.line.drop()
            for request in batch:
                request.in_doubt = True
            raise

    def _together(self, batch: list[Append], deadline: float) -> bool:
        """Store all in one round trip; False where that was not possible, and each has to be looked at."""
        if any(request.in_doubt for request in batch):
            return False
        session = self._session(deadline)
        try:
            _store(session, batch, durable=any(request.durable for request in batch))
        except Exception as error:  # noqa: BLE001 - each is told what concerns it when it is stored alone
            if session.is_lost(error):
                self.line.drop()
                for request in batch:
                    request.in_doubt = True
            else:
                _roll_back(session)
            return False
        self._remember(session, batch)
        for request in batch:
            request.done = True
        return True

    def _alone(self, request: Append, deadline: float) -> None:
        while not request.done:
            session = self._session(deadline)
            try:
                if not (request.in_doubt and _is_stored(session, request)):
                    _store(session, [request], durable=request.durable)
                self._remember(session, [request])
            except Exception as error:  # noqa: BLE001 - belongs to the asker, who gets it
                if session.is_lost(error):
                    self._give_up_at(deadline, error)
                    request.in_doubt = True
                    continue
                _roll_back(session)
                if isinstance(error, AGAIN) or (
                    request.in_doubt and isinstance(error, errors.UniqueViolation)
                ):
                    continue  # it was being stored while this was asked
                request.error = named(error)
            request.done = True

    def _give_up_at(self, deadline: float, error: BaseException) -> None:
        self.line.drop()
        if time.monotonic() > deadline:
            raise self.line.unreachable(error) from error

    # -- after a crash of the server
    def _remember(self, session: Session, batch: list[Append]) -> None:
        recent, now = self._recent, time.monotonic()
        if any(request.durable for request in batch):
            recent.clear()  # one log: whatever was committed before is on the disk, too
            return
        while recent and recent[0][0] < now:
            recent.popleft()
        for request in batch:
            if request.error is None:
                recent.append((now + session.unflushed, request))

    def _session(self, deadline: float) -> Session:
        """The session, after what a crash of the server may have taken was given back to it."""
        while True:
            session = self.line.session(deadline)
            if self._restored == self.line.dialled:
                return session
            dialled = self.line.dialled
            try:
                self._restore(session)
            except psycopg.Error as error:
                self._give_up_at(deadline, error)
            else:
                self._restored = dialled

    def _restore(self, session: Session) -> None:
        ids = [row.id for _, request in self._recent for row in request.rows]
        if not ids:
            return
        found = {row[0] for row in session.all(SQL["found_steps"], (ids,))}
        for _, request in self._recent:
            if request.rows and request.rows[0].id not in found:
                try:
                    _store(session, [request], durable=False)
                except psycopg.Error as error:
                    if session.is_lost(error):
                        raise
                    _roll_back(session)  # somebody else owns the run

    # -- everything else
    def run(self, work: Callable[[Session], T], *, durable: bool = True) -> T:
        """Do `work` in a transaction, and return after its commit. What it raises undoes it.

        It is called again where the transaction was undone by the server, or lost with the connection.
        """
        ended: list[T] = []  # what it gave, once its commit was asked for
        return self._until_done(lambda session: self._once(session, work, ended, durable=durable))

    def at_once(
        self, statement: bytes, values: Sequence[Any], found: tuple[bytes, Sequence[Any]]
    ) -> Row | None:
        """Execute a statement that is a transaction by itself; its first row, if any.

        It leaves its receipt itself: its first three parameters are the writer, the serial and the level.
        `found`: by which its row is found after its reply was lost.
        """
        lost: list[bool] = []

        def attempt(session: Session) -> Row | None:
            repeated = bool(lost)
            lost.append(True)
            row = session.one(statement, (self.writer, self._serial, session.level, *values))
            if row is None and repeated and session.value(SQL["receipt"], (self.writer,)) == self._serial:
                row = session.one(*found)
            self._recent.clear()
            return row

        return self._until_done(attempt)

    def _until_done(self, attempt: Callable[[Session], T]) -> T:
        """Attempt a transaction, and again where it was undone by the server, or lost with the connection."""
        deadline = self.line.deadline()
        with self.writing():
            self._serial += 1
            while True:
                session = self._session(deadline)
                try:
                    return attempt(session)
                except psycopg.Error as error:
                    if session.is_lost(error):
                        self._give_up_at(deadline, error)
                        continue
                    _roll_back(session)
                    if not isinstance(error, AGAIN):
                        raise named(error) from error
                except (Exception, Unwinding):
                    _roll_back(session)
                    raise
                except (
                    BaseException
                ):  # also an interruption, which leaves it unknown what the server has heard
                    self.line.drop()
                    raise

    def _once(self, session: Session, work: Callable[[Session], T], ended: list[T], *, durable: bool) -> T:
        with session.in_one_go():
            session.do(b"BEGIN")
            if durable:
                session.do(_level(session))
            begun = session.one(SQL["begin_once"], (self.writer, self._serial))
        if begun is None:  # the transaction whose reply was lost had been committed
            session.do(b"ROLLBACK")
            return ended[0]
        session.now = begun[0]
        ended.clear()
        result = work(session)
        ended.append(result)
        session.do(b"COMMIT")
        if durable:
            self._recent.clear()
        return result

    def announce(self, channel: str) -> None:
        """Tell other processes that something was committed. Only a hint: where it fails, they find out by looking."""
        with self.writing():
            if self.line.has_session():
                try:
                    self.line.session(0.0).do(SQL["announce"], (channel, self.writer))
                except psycopg.Error:
                    self.line.drop()

    def resign(self, keeper: int) -> None:
        """Free what a keeper of this process owns, if the server is there; else its lease runs out."""
        with self.writing():
            if keeper and self.line.has_session():
                session = self.line.session(0.0)
                try:
                    with session.in_one_go():
                        session.do(b"BEGIN")
                        session.do(_level(session))
                        session.do(SQL["let_go_of_runs"], (keeper,))
                        session.do(SQL["drop_keeper"], (keeper,))
                        session.do(b"COMMIT")
                except psycopg.Error:
                    self.line.drop()

    def close(self, why: str) -> None:
        """Let nothing be written any more."""
        with self.writing():
            if self.line.has_session() and not self.line.closed:
                with suppress(psycopg.Error):
                    self.line.session(0.0).do(SQL["drop_receipts"], (self.writer,))
        self.line.close(why)


def named(error: Exception) -> BaseException:
    """What a refused write is called."""
    if not isinstance(error, psycopg.Error):
        return error
    failure = Fenced(LOST) if error.sqlstate == _STALE else failed(error)
    failure.__cause__ = error
    return failure


def _level(session: Session) -> bytes:
    return f"SET LOCAL synchronous_commit = '{session.level}'".encode()


def _store(session: Session, batch: Sequence[Append], *, durable: bool) -> None:
    """One transaction in one round trip; an error of any statement undoes all of it."""
    if all(request.rows and not (request.more or request.end) for request in batch):
        _store_rows(session, batch, durable=durable)
        return
    with session.in_one_go():
        session.do(b"BEGIN")
        if durable:
            session.do(_level(session))
        for claim in dict.fromkeys(
            (request.number, request.epoch) for request in batch if request.end is None
        ):
            session.do(SQL["fence"], claim)
        if rows := [row for request in batch for row in request.rows]:
            session.each(SQL["append_step"], rows)
        for request in batch:
            for statement, values in request.more:
                session.each(statement, values)
        ends = [
            (request, session.later(SQL["end_run"], request.end.values)) for request in batch if request.end
        ]
        session.do(b"COMMIT")
    for request, ended in ends:
        request.took = ended.rowcount > 0


def _store_rows(session: Session, batch: Sequence[Append], *, durable: bool) -> None:
    """The same where there is nothing but rows, in one statement. A stale owner's are left out, and it is told."""
    rows = [(*row, request.epoch) for request in batch for row in request.rows]
    level = session.level if durable else "off"
    if len(rows) == 1:
        found = session.all(SQL["append_alone"], (*rows[0], level))
    else:
        found = session.all(SQL["append_together"], (*map(list, zip(*rows, strict=True)), level))
    stored = {row[0] for row in found}
    for request in batch:
        if request.rows[0].id not in stored:
            request.error = Fenced(LOST)


def _store_fenced(session: Session, epoch: int, rows: Sequence[StepRow]) -> bool:
    """The cheapest commit there is; all rows or, for a stale owner, none."""
    statement = SQL["append_step_fenced"]
    if len(rows) == 1:
        return bool(session.do(statement, (*rows[0], epoch)))
    with session.in_one_go():
        session.do(b"BEGIN")
        stored = session.each(statement, [(*row, epoch) for row in rows])
        session.do(b"COMMIT")
    return stored.rowcount > 0


def _is_stored(session: Session, request: Append) -> bool:
    """Whether a transaction whose reply was lost had been committed. Raises what a stale owner is refused with."""
    if request.end is not None:
        request.took = session.one(SQL["run_has_ended"], request.end.has_ended) is not None
        return request.took
    session.do(SQL["fence"], (request.number, request.epoch))
    found = session.all(SQL["steps_by_id"], ([row.id for row in request.rows],))
    if found and found != list(request.rows):
        request.in_doubt = False  # somebody else's
    return bool(found) and request.in_doubt


def _roll_back(session: Session) -> None:
    with suppress(psycopg.Error):  # then the connection is of no use, as the next statement finds out
        session.do(b"ROLLBACK")
