"""What all verbs of the PostgreSQL journal share: the connections, the keeper, who is live. No verb of a noun.

Writes are serialised by locks of rows: a verb that looks before it writes begins by locking its run, and only then
looks. Verbs of limits and of keys, which concern many runs, each have a lock of their own, taken first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import psycopg

from agentflow.errors import Fenced, JournalOpenError, RunNotFoundError
from agentflow.journal.postgres.address import Address
from agentflow.journal.postgres.commits import LOST, Committer
from agentflow.journal.postgres.connections import Line, Row, Session
from agentflow.journal.postgres.keeping import Keeper
from agentflow.journal.postgres.schema import migrate
from agentflow.journal.postgres.statements import SQL, translated
from agentflow.journal.rows import run_from
from agentflow.model.runs import Run

T = TypeVar("T")
LEASE = 30.0
"""Seconds after which a process that is not heard of counts as dead."""
PATIENCE = 30.0
"""Seconds for which a verb tries to reach a server that is away."""
_FORKED = (
    "a forked process cannot use its parent's journal; call tasks in the parent, or start processes by spawn"
)
_CLOSED = "the journal is closed"


class Alone(IntEnum):
    """What only one transaction may do at a time, in all processes."""

    LIMITS = 1
    KEYS = 2


class Buried(Exception):
    """This process was not heard of for a lease; its keeper is gone, and the next claim needs a new one."""


class PostgresBase:
    """An open journal in a PostgreSQL database.

    `clock` replaces the database's for what is recorded, never for leases. `lease`, `patience`: seconds.
    """

    def __init__(
        self,
        url: str,
        key: bytes,
        *,
        clock: Callable[[], float] | None = None,
        lease: float = LEASE,
        patience: float = PATIENCE,
    ) -> None:
        address = Address(url)
        self.key, self.url, self.address = key, address.url, url
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._clock = clock
        writer = Line(address, lease, patience)
        try:
            migrate(writer.first(), address.schema, self.url)
        except psycopg.Error as error:
            writer.drop()
            raise address.refusal(error) from None
        except JournalOpenError:
            writer.drop()
            raise
        self._committer = Committer(writer)
        self._reader = Line(address, lease, patience)
        self._channel = address.schema
        self._keeper = Keeper(
            Line(address, lease, patience, silence=max(lease / 3, 1.0)),
            self._committer,
            self.owner,
            lease,
            self._channel,
            self._tell,
        )
        #: Keepers of workers whose sessions this process serves: it alone knows when they were heard of.
        self._served: set[int] = set()
        self._listeners: list[Callable[[], None]] = []
        self._closed = False
        _journals.add(self)

    @property
    def identity(self) -> str:
        return str(self._all(SQL["identity"])[0][0])

    @property
    def beside(self) -> Path | None:
        return None  # the machines of its processes share no folder

    def version(self) -> int:
        return self._reader.read(lambda db: int(db.value(SQL["version"])))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        self._keeper.watch()
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def hears(self) -> bool:
        return self._keeper.listening

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._keeper.close()
        self._reader.close(_CLOSED)
        self._committer.resign(self._keeper.number)
        self._committer.close(_CLOSED)

    def leave_to_parent(self) -> None:
        """Forbid its use in a forked process: the connections belong to the process before the fork."""
        self._closed = True
        for line in (self._committer.line, self._reader):
            line.leave_to_parent(_FORKED)
        self._keeper.leave_to_parent(_FORKED)

    # -- for the verbs
    def _commit(self, work: Callable[[Session], T], *, durable: bool = True) -> T:
        return self._committer.run(work, durable=durable)

    def _now(self, db: Session) -> float:
        return db.now if self._clock is None else self._clock()

    def _notify(self) -> None:
        self._tell()
        if not self._keeper.announce():
            self._committer.announce(self._channel)

    def _tell(self) -> None:
        for callback in tuple(self._listeners):
            callback()

    def _all(self, statement: bytes, values: Sequence[Any] = ()) -> list[Row]:
        return self._reader.read(lambda db: db.all(statement, values))

    def _one(self, statement: bytes, values: Sequence[Any] = ()) -> Row | None:
        return self._reader.read(lambda db: db.one(statement, values))

    def _find(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._all(translated(sql), values)

    # -- who is live
    def _bury_the_dead(self) -> None:
        """Give up whoever has not renewed its lease; from then on it owns nothing, whatever it still believes.

        But not this process, which has just slept for too long and is about to renew, nor those that it serves.
        """
        lapsed = {int(row[0]) for row in self._all(SQL["lapsed_keepers"])} - {self._keeper.number}
        for number in sorted(lapsed - self._served):
            self._bury(number)

    def _bury(self, keeper: int) -> None:
        def work(db: Session) -> None:
            if db.do(SQL["bury_keeper"], (keeper,)):
                db.do(SQL["orphan_runs"], (keeper,))

        self._committer.run(work)

    def _commit_claim(
        self, work: Callable[[Session, int], T], *, after: Callable[[Session], None] = lambda _: None
    ) -> T:
        """Do `work` with the number of this process's keeper, which is not buried before the transaction ends."""
        while True:
            keeper = self._keeper.registered()

            def claim(db: Session, keeper: int = keeper) -> T:
                after(db)
                if db.one(SQL["keeper_locked"], (keeper,)) is None:
                    raise Buried
                return work(db, keeper)

            try:
                return self._commit(claim)
            except Buried:
                self._keeper.forget(keeper)


def locked_run(db: Session, run_id: str) -> tuple[Run, bool]:
    """A run, and whether a process owns it; neither changes before the transaction ends. The dead are buried before."""
    row = db.one(SQL["run_by_id_locked"], (run_id,))
    if row is None:
        raise RunNotFoundError(run_id)
    return run_from(row), bool(row[-1])


def executing(db: Session) -> Callable[[str, Sequence[Sequence[Any]]], object]:
    """What executes a named statement once with each of the parameters."""
    return lambda name, rows: [db.do(SQL[name], row) for row in rows]


def check_epoch(db: Session, number: int, epoch: int) -> None:
    """Refuse a write of a stale owner; there will be no other owner before the transaction ends."""
    row = db.one(SQL["epoch_locked"], (number,))
    if row is None or row[0] != epoch or row[1] == 0:
        raise Fenced(LOST)


def alone(db: Session, what: Alone) -> None:
    """Wait until nobody else does this; to be taken before any lock of a row."""
    db.do(SQL["alone"], (what,))


_journals: WeakSet[PostgresBase] = WeakSet()


def _leave_to_parent() -> None:
    for journal in tuple(_journals):
        journal.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
