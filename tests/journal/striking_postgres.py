"""A PostgreSQL journal that loses its connection at one statement of a verb: nobody must be able to tell."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.postgres.connections import Line, Row, Session
from agentflow.journal.postgres.patience import PatientConnection
from tests.journal.striking import KEY, Fault

#: Numbers are given out once, also to transactions that are lost; the memory journal knows no such gaps.
_NO_GAPS = b"""SELECT setval(pg_get_serial_sequence('run', 'number'), coalesce(max(number), 0) + 1, false) FROM run
UNION ALL SELECT setval(pg_get_serial_sequence('log', 'id'), coalesce(max(id), 0) + 1, false) FROM log"""


class Plan:
    """Where the next verb is struck."""

    fault: Fault | None = None
    fired = False

    def arm(self, fault: Fault | None) -> None:
        self.fault, self.fired = fault, False


class StruckSession(Session):
    """Its connection is lost before a statement is sent, or after it was executed."""

    def __init__(self, connection: PatientConnection, plan: Plan) -> None:
        self._plan = plan
        self._late = False
        super().__init__(connection)

    def _executed(self, statement: bytes, values: Sequence[Any]) -> psycopg.Cursor[Row]:
        fault = self._plan.fault
        if fault is None or not statement.startswith(fault.statement.encode()):
            return super()._executed(statement, values)
        self._plan.fault = None
        self._plan.fired = True
        if not fault.after:
            self._hang_up()
        cursor = super()._executed(statement, values)
        self._late = True
        if not self._in_one_go:
            self._hang_up()
        return cursor

    @contextmanager
    def in_one_go(self) -> Generator[None, None, None]:
        with super().in_one_go():
            yield
        if self._late:
            self._hang_up()

    def _hang_up(self) -> None:
        self._late = False
        self.connection.pgconn.finish()
        raise psycopg.OperationalError("struck")


class StruckLine(Line):
    """Dials sessions that can be struck."""

    plan: Plan

    def dial(self, seconds: float = 10.0) -> Session:
        plain = super().dial(seconds)
        self._session = session = StruckSession(plain.connection, self.plan)
        session.do(_NO_GAPS)
        return session


class StruckPostgres(PostgresJournal):
    """A journal whose write connection can be lost."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        super().__init__(url, KEY, clock=clock)
        self.plan = Plan()
        line = self._committer.line
        line.__class__ = StruckLine
        assert isinstance(line, StruckLine)
        line.plan = self.plan
        line.drop()
        line.dial()
