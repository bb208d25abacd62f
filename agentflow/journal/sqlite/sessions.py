"""A worker's session in a SQLite journal: all that the server's own journal has, but for who owns what."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

import apsw

from agentflow.errors import JournalUnavailable
from agentflow.journal.locks import Ownership
from agentflow.journal.protocol.serving import Answering, SessionAway, SessionOver, SessionRow, new_session
from agentflow.journal.sqlite import SqliteJournal
from agentflow.journal.sqlite.base import SQL
from agentflow.journal.wire import outcome_bytes, outcome_from

T = TypeVar("T")
#: Of the numbers of processes without a run, see `agentflow.journal.sqlite.limits`.
_NUMBERS = (1 << 24) - 1


class SqliteSession(SqliteJournal):
    """See `agentflow.journal.serving.JournalSession`. The worker's runs are locked by the server, in its stead."""

    def __init__(self, journal: SqliteJournal, row: SessionRow, ownership: Ownership) -> None:
        vars(self).update(vars(journal))  # one file, one writer
        self.row, self.owner = row, row.owner
        self._session, self._ownership = row.number, ownership
        self._answering = Answering()
        #: Why nothing is done in it any more.
        self._over: type[Exception] | None = None

    @classmethod
    def opened(
        cls, journal: SqliteJournal, worker: str, lease: float, api_key: str, now: float
    ) -> SqliteSession:
        """A new session."""
        ownership = _ownership(journal)
        number = 1 + secrets.randbelow(_NUMBERS)
        while not ownership.acquire(0, number):
            number = 1 + secrets.randbelow(_NUMBERS)
        row = new_session(worker, lease, api_key, now)._replace(number=number)
        try:
            return cls(journal, journal.add_session(row), ownership)
        except BaseException:
            ownership.close()
            raise

    @classmethod
    def resumed(cls, journal: SqliteJournal, row: SessionRow) -> SqliteSession | None:
        """A session that another process had served, with all that it owns; None while that one still does."""
        ownership = _ownership(journal)
        if not ownership.acquire(0, row.number):
            ownership.close()
            return None
        session = cls(journal, row, ownership)
        for number, epoch in session._all(SQL["runs_of_owner"], (row.owner,)):
            ownership.acquire(number, epoch)
        return session

    def answering(self, serial: int, known: int) -> AbstractContextManager[None]:
        return self._answering.request(serial, known)

    def renew(self) -> bool:
        return self._over is None

    def end(self, *, lapsed: bool = False) -> None:
        self._over = SessionOver
        self._ownership.close()
        with suppress(JournalUnavailable):  # nobody will use what is left of it
            self.drop_session(self.row, lapsed=lapsed)
        self._notify()

    def suspend(self) -> None:
        self._over = SessionAway
        self._ownership.close()

    def close(self) -> None:
        self.end()

    def _commit(self, work: Callable[[apsw.Connection], T], *, durable: bool = False) -> T:
        request = self._answering.take()
        if request is None:
            return super()._commit(work, durable=durable)
        serial, known = request

        def once(db: apsw.Connection) -> Any:
            if self._over is not None:
                raise self._over
            kept: Any = db.execute(SQL["answer"], (self.row.id, serial)).get
            if kept is not None:
                return outcome_from(kept)
            result = work(db)
            db.execute(SQL["drop_known_answers"], (self.row.id, known))
            db.execute(SQL["reserve_answer"], (self.row.id, serial)).fetchall()
            db.execute(SQL["put_answer"], (outcome_bytes(result), self.row.id, serial))
            return result

        return super()._commit(once, durable=durable)


def _ownership(journal: SqliteJournal) -> Ownership:
    return Ownership(journal.path.with_name(journal.path.name + "-owners"))
