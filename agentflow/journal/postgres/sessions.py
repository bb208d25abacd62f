"""A worker's session in a PostgreSQL journal: a keeper whose lease begins anew whenever the worker is heard of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

from agentflow.errors import JournalUnavailable
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.keeping import Keeper
from agentflow.journal.postgres.runs import Ended
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.protocol.serving import Answering, SessionOver, SessionRow, new_session
from agentflow.journal.wire import outcome_bytes, outcome_from

T = TypeVar("T")


class _WorkersKeeper(Keeper):
    """Of a worker that somebody else renews; once it was buried, there is no other one for that worker."""

    def __init__(self, number: int) -> None:
        self.number = number

    def registered(self) -> int:
        if not self.number:
            raise SessionOver
        return self.number

    def forget(self, number: int) -> None:
        if number == self.number:
            self.number = 0

    def announce(self) -> bool:
        return False


class PostgresSession(PostgresJournal):
    """See `agentflow.journal.serving.JournalSession`."""

    def __init__(self, journal: PostgresJournal, row: SessionRow) -> None:
        vars(self).update(vars(journal))  # the same connections
        self.row, self.owner = row, row.owner
        self._keeper: Keeper = _WorkersKeeper(row.number)
        self._journal, self._answering = journal, Answering()
        self._served.add(row.number)

    @classmethod
    def opened(
        cls, journal: PostgresJournal, worker: str, lease: float, api_key: str, now: float
    ) -> PostgresSession:
        """A new session."""
        return cls(journal, journal.add_session(new_session(worker, lease, api_key, now)))

    @classmethod
    def resumed(cls, journal: PostgresJournal, row: SessionRow) -> PostgresSession | None:
        """A session that another process has served; None where it is over."""
        session = cls(journal, row)
        if session.renew():
            return session
        session.end(lapsed=True)
        return None

    def answering(self, serial: int, known: int) -> AbstractContextManager[None]:
        return self._answering.request(serial, known)

    def renew(self) -> bool:
        number = self._keeper.number
        if number and not self._committer.run(
            lambda db: db.do(SQL["renew_keeper"], (number,)), durable=False
        ):
            self._keeper.forget(number)
        return self._keeper.number > 0

    def end(self, *, lapsed: bool = False) -> None:
        self._served.discard(self.row.number)
        self._keeper.forget(self.row.number)
        with suppress(JournalUnavailable):  # then its lease runs out
            self.drop_session(self.row, lapsed=lapsed)
        self._notify()

    def suspend(self) -> None:
        self._served.discard(self.row.number)

    def close(self) -> None:
        self.end()

    def _bury_the_dead(self) -> None:
        self._journal._bury_the_dead()  # noqa: SLF001 - what it does is no answer to a request

    # what is answered is stored with what it tells of
    def _create_at_once(self, values: Sequence[Any], *, owned: bool) -> int | None:
        del values, owned
        return None

    def _end(self, number: int, epoch: int, ended: Ended) -> bool:
        del number, epoch, ended
        return False

    def _commit(self, work: Callable[[Session], T], *, durable: bool = True) -> T:
        request = self._answering.take()
        if request is None:
            return super()._commit(work, durable=durable)
        serial, known = request

        def once(db: Session) -> Any:
            place = (self.row.id, serial)
            if db.one(SQL["reserve_answer"], place) is None:
                return outcome_from(db.value(SQL["answer"], place))
            result = work(db)
            db.do(SQL["put_answer"], (outcome_bytes(result), *place))
            db.do(SQL["drop_known_answers"], (self.row.id, known))
            return result

        return super()._commit(once, durable=durable)
