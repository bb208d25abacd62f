"""A SQLite journal in which one statement of a verb fails: the process lives on, and must have lost nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import apsw

from agentflow.journal.sqlite import SqliteJournal

KEY = b"k" * 32


class Fault(NamedTuple):
    """Where a verb is struck: at its first statement of that kind, before or after it was executed."""

    statement: str
    after: bool


class Struck:
    """A connection on which one statement fails."""

    def __init__(self, real: apsw.Connection) -> None:
        self.real = real
        self.fault: Fault | None = None
        self.fired = self.stored = False

    def arm(self, fault: Fault | None) -> None:
        self.fault, self.fired, self.stored = fault, False, False

    def _strike(self) -> None:
        self.fired, self.fault = True, None
        self.stored = not self.real.in_transaction
        raise apsw.IOError("struck")

    def execute(self, statement: str, *values: Any) -> Any:
        fault = self.fault
        if fault is None or not statement.startswith(fault.statement):
            return self.real.execute(statement, *values)
        if fault.after:
            self.real.execute(statement, *values)
            self._strike()
        self.fired, self.fault = True, None
        raise apsw.IOError("struck")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __enter__(self) -> Self:
        self.real.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fault = self.fault
        if fault is None or fault.statement != "COMMIT" or kind is not None:
            self.real.__exit__(kind, error, trace)
        elif fault.after:
            self.real.__exit__(kind, error, trace)
            self._strike()
        else:
            failure = apsw.IOError("struck")
            self.real.__exit__(apsw.IOError, failure, None)
            self.fired, self.fault = True, None
            raise failure


class StruckJournal(SqliteJournal):
    """A SQLite journal whose write connection can be struck."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        super().__init__(path, KEY, clock=clock)
        self.struck = Struck(self._committer.connection)
        self._committer.connection = self.struck  # type: ignore[assignment]  # it does what a connection does
