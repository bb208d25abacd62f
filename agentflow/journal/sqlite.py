"""The embedded journal: one SQLite file through apsw, many processes, one write connection each."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakSet

import apsw
import orjson

from agentflow.errors import (
    Fenced,
    JournalOpenError,
    JournalUnavailable,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    WaitNotFoundError,
)
from agentflow.journal import rules
from agentflow.journal.commits import Checkpointer, Committer, connect
from agentflow.journal.locks import Ownership, Turnstile
from agentflow.journal.protocol import CacheRow, RunFilter
from agentflow.journal.rows import (
    decision_bytes,
    new_run,
    new_run_values,
    run_from,
    wait_from,
    wait_values,
)
from agentflow.journal.schema import migrate
from agentflow.journal.sql import queries
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import SEQUENCE_BITS, LogRow, StepRow
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind

T = TypeVar("T")
_SQL = queries()
_FENCED = _SQL["append_step_fenced"]
_APPEND = _SQL["append_step"]
_FORKED = (
    "a forked process cannot use its parent's journal; call tasks in the parent, or start processes by spawn"
)
_LOST = "another process has taken this run over"
_OPEN = (
    "decided IS NULL AND (SELECT state FROM run WHERE number = wait.run) "
    "NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED')"
)
_step_row = cast("Callable[[Any], StepRow]", partial(cast("Any", tuple).__new__, StepRow))


class SqliteJournal:
    """See `agentflow.journal.protocol.Journal`. Raises `JournalOpenError` where `path` cannot be a journal."""

    def __init__(
        self, path: Path, key: bytes, *, clock: Callable[[], float] = time.time, vfs: str = ""
    ) -> None:
        self.key, self.path, self.url = key, path, f"sqlite:///{path}"
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._clock = clock
        try:
            self._open(vfs)
        except (OSError, apsw.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            message = (
                f"cannot open the journal {path}: {reason}; set AGENTFLOW_HOME to a folder you can write to"
            )
            raise JournalOpenError(message) from error
        self._read_lock = threading.Lock()
        self._checkpointer = Checkpointer(partial(connect, path, vfs))
        self._pages = 0
        self._listeners: list[Callable[[], None]] = []
        self._closed = False
        _journals.add(self)

    def _open(self, vfs: str) -> None:
        path = self.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ExitStack() as undo:
            self._ownership = Ownership(path.with_name(path.name + "-owners"))
            undo.callback(self._ownership.close)
            turnstile = Turnstile(path.with_name(path.name + "-turn"))
            undo.callback(turnstile.close)
            turnstile.enter()  # SQLite does not wait for another process that makes the same file a WAL database
            writer = connect(path, vfs)
            undo.callback(writer.close)
            migrate(writer, str(path))
            self._reader = connect(path, vfs)
            turnstile.leave()
            undo.pop_all()
        self._committer = Committer(writer, turnstile)

    # -- runs
    def create_run(self, new: NewRun, *, state: StateType = StateType.RUNNING) -> Run:
        values = new_run_values(new, state, self.owner)
        taken: list[tuple[int, int]] = []

        def work(db: apsw.Connection) -> int:
            db.execute(_SQL["create_run"], values)
            number = db.last_insert_rowid()
            if state is StateType.RUNNING:
                self._own(taken, number, 1, new.id, "another process")
            return number

        number = self._commit_claim(work, taken)
        self._notify()
        return new_run(new, state, self.owner, number)

    def claim_run(self, run_id: str, *, take_over: bool = False) -> Run:
        taken: list[tuple[int, int]] = []

        def work(db: apsw.Connection) -> Run:
            run = self._need_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            if not take_over and self._ownership.is_held(run.number, run.epoch):
                raise RunOwnedError(run_id, run.owner or "another process")
            self._own(taken, run.number, run.epoch + 1, run_id, run.owner)
            crashed = 1 if run.state is StateType.RUNNING and run.owner else 0
            db.execute(_SQL["claim_run"], (self.owner, self._clock(), crashed, run.number))
            return self._need_run(db, run_id)

        run = self._commit_claim(work, taken)
        self._notify()
        return run

    def _own(self, taken: list[tuple[int, int]], number: int, epoch: int, run_id: str, owner: str) -> None:
        if (number, epoch) in taken:  # the work is done once more after an interruption
            return
        taken.append((number, epoch))
        if not self._ownership.acquire(number, epoch):
            taken.clear()
            raise RunOwnedError(run_id, owner or "another process")

    def _commit_claim(self, work: Callable[[apsw.Connection], T], taken: list[tuple[int, int]]) -> T:
        try:
            return self._commit(work)
        except BaseException:
            for number, epoch in taken:
                self._ownership.release(number, epoch)
            raise

    def release_run(self, run: Run) -> None:
        try:
            self._commit(lambda db: db.execute(_SQL["release_run"], (run.number, run.epoch)))
        finally:  # what cannot be written down is still let go of
            self._ownership.release(run.number, run.epoch)
        self._notify()

    def set_state(
        self,
        number: int,
        epoch: int,
        state: StateType,
        *,
        message: str = "",
        result: bytes | None = None,
        error: bytes | None = None,
        durable: bool = True,
        release: bool = False,
    ) -> None:
        ended = self._clock() if state.is_final else None

        def work(db: apsw.Connection) -> None:
            row = db.execute("SELECT state, epoch FROM run WHERE number = ?", (number,)).get
            stored = rules.next_state(row, epoch, state)
            db.execute(
                _SQL["set_state"], (stored.value, message, ended, result, error, int(release), number, epoch)
            )

        try:
            self._commit(work, durable=durable)
        except JournalUnavailable:
            if release:  # whoever resumes it later must not be told that it is owned
                self._ownership.release(number, epoch)
            raise
        if release:
            self._ownership.release(number, epoch)
        self._notify()

    def add_origin(self, run_id: str, origin: Origin) -> None:
        def work(db: apsw.Connection) -> None:
            run = self._need_run(db, run_id)
            if origin not in run.origins:
                db.execute(_SQL["add_origin"], (",".join((*run.origins, origin)), run.number))

        self._commit(work, durable=True)

    def request_cancel(self, run_id: str, message: str) -> Run:
        def work(db: apsw.Connection) -> Run:
            run = self._need_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            if not self._ownership.is_held(run.number, run.epoch):
                db.execute(_SQL["cancel_unstarted"], (message, self._clock(), run.number))
            else:
                db.execute(_SQL["request_cancel"], (message, run.number))
            return self._need_run(db, run_id)

        run = self._commit(work, durable=True)
        self._notify()
        return run

    def get_run(self, run_id: str) -> Run | None:
        row = self._one("SELECT * FROM run WHERE id = ?", (run_id,))
        return None if row is None else run_from(row)

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        clauses, values = ["1"], list[Any]()
        if wanted.states:
            clauses.append(f"state IN ({', '.join('?' * len(wanted.states))})")
            values += [state.value for state in wanted.states]
        if wanted.flow:
            clauses.append("flow = ?")
            values.append(wanted.flow)
        if wanted.before is not None:
            clauses.append("number < ?")
            values.append(wanted.before)
        if wanted.id_end:
            clauses.append("substr(id, -length(?)) = ?")
            values += [wanted.id_end, wanted.id_end]
        sql = f"SELECT * FROM run WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?"  # noqa: S608 - fixed texts
        return [run_from(row) for row in self._all(sql, (*values, wanted.limit))]

    def due_runs(self, now: float) -> list[Run]:
        due: list[Run] = []
        for run in (run_from(row) for row in self._all(_SQL["live_runs"])):
            if run.state is StateType.SCHEDULED or self._ownership.is_held(run.number, run.epoch):
                continue
            waiting = run.state is StateType.PAUSED
            if not waiting or self._one(_SQL["run_is_awake"], (run.number, now)) is not None:
                due.append(run)
        return due

    def is_owned(self, run: Run) -> bool:
        epoch = self._one(_SQL["run_epoch"], (run.number,))
        return epoch is not None and self._ownership.is_held(run.number, epoch[0])

    # -- steps
    def append(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        *,
        durable: bool = False,
        cache: Sequence[CacheRow] = (),
        consumed: Sequence[str] = (),
    ) -> None:
        if not (durable or cache or consumed) and len(rows) == 1 and self._append_one(rows[0], epoch):
            return

        def work(db: apsw.Connection) -> None:
            _check_epoch(db, number, epoch)
            db.executemany(_APPEND, rows)
            if cache:
                db.executemany(_SQL["put_cache"], cache)
            if consumed:
                now = self._clock()
                db.executemany(_SQL["consume_wait"], [(now, wait_id) for wait_id in consumed])

        self._commit(work, durable=durable)

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        if len(rows) == 1:
            return self._append_one(rows[0], epoch)

        def work(db: apsw.Connection) -> None:
            _check_epoch(db, number, epoch)
            db.executemany(_APPEND, rows)

        if not self._committer.try_run(work):
            return False
        self._count(len(rows))
        return True

    def _append_one(self, row: StepRow, epoch: int) -> bool:
        changed = self._committer.try_execute(_FENCED, (*row, epoch))
        if changed < 0:
            return False
        if not changed:
            raise Fenced(_LOST)
        self._pages += 1
        if self._pages >= Checkpointer.PAGES:
            self._count(0)
        return True

    def start_effect(
        self,
        number: int,
        epoch: int,
        row: StepRow,
        *,
        wait_id: str = "",
        digest: str = "",
        again: bool = False,
    ) -> None:
        def work(db: apsw.Connection) -> None:
            _check_epoch(db, number, epoch)
            if wait_id:
                now = self._clock()
                found = db.execute(_SQL["wait_by_id"], (wait_id,)).get
                rules.check_consumption(
                    None if found is None else wait_from(found), wait_id, number, digest, now, again=again
                )
                db.execute(_SQL["consume_wait"], (now, wait_id))
            db.execute(_APPEND, row)

        self._commit(work, durable=True)

    def steps(self, number: int, after: int = 0, limit: int = -1) -> list[StepRow]:
        low = max(after, number << SEQUENCE_BITS)
        rows = self._all(_SQL["steps"], (low, (number + 1) << SEQUENCE_BITS, limit))
        return list(map(_step_row, rows))

    # -- waits
    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        def work(db: apsw.Connection) -> Wait:
            _check_epoch(db, wait.run, epoch)
            existing = db.execute(_SQL["wait_by_id"], (wait.id,)).get
            if existing is not None:
                return wait_from(existing)
            db.execute(_SQL["open_wait"], wait_values(wait))
            if wait.kind is WaitKind.EVENT:
                event = db.execute(_SQL["first_untaken_event"], (wait.run, wait.name)).get
                if event is not None:
                    self._take_event(db, wait.id, event[0], event[1])
            return wait_from(db.execute(_SQL["wait_by_id"], (wait.id,)).get)

        opened = self._commit(work, durable=True)
        self._notify()
        return opened

    def _take_event(self, db: apsw.Connection, wait_id: str, event_id: int, payload: bytes) -> None:
        decision = Decision(Verdict.ANSWERED, orjson.loads(payload), actor="event")
        db.execute(_SQL["decide_wait"], (decision_bytes(decision), self._clock(), "", wait_id))
        db.execute(_SQL["take_event"], (wait_id, event_id))

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        def work(db: apsw.Connection) -> Wait:
            found = db.execute(_SQL["wait_by_id"], (wait_id,)).get
            if found is None:
                raise WaitNotFoundError(wait_id)
            wait = wait_from(found)
            run = run_from(db.execute("SELECT * FROM run WHERE number = ?", (wait.run,)).get)
            rules.check_decision(wait, run, decision, now)
            db.execute(_SQL["decide_wait"], (decision_bytes(decision), now, allowed_digest, wait_id))
            return wait_from(db.execute(_SQL["wait_by_id"], (wait_id,)).get)

        decided = self._commit(work, durable=True)
        self._notify()
        return decided

    def get_wait(self, wait_id: str) -> Wait | None:
        row = self._one(_SQL["wait_by_id"], (wait_id,))
        return None if row is None else wait_from(row)

    def list_waits(
        self,
        *,
        number: int | None = None,
        open_only: bool = True,
        kinds: frozenset[WaitKind] = frozenset(),
        limit: int = 200,
    ) -> list[Wait]:
        clauses, values = [_OPEN if open_only else "1"], list[Any]()
        if number is not None:
            clauses.append("run = ?")
            values.append(number)
        if kinds:
            clauses.append(f"kind IN ({', '.join('?' * len(kinds))})")
            values += [kind.value for kind in kinds]
        order = "opened, id" if open_only or number is not None else "opened DESC, id DESC"
        sql = f"SELECT * FROM wait WHERE {' AND '.join(clauses)} ORDER BY {order} LIMIT ?"  # noqa: S608 - fixed texts
        return [wait_from(row) for row in self._all(sql, (*values, limit))]

    def unread_answers(self, number: int) -> list[Wait]:
        return [wait_from(row) for row in self._all(_SQL["unread_waits"], (number,))]

    def send_event(self, run_id: str, name: str, payload: bytes, now: float) -> str | None:
        def work(db: apsw.Connection) -> str | None:
            run = self._need_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            orjson.loads(payload)
            db.execute(_SQL["insert_event"], (run.number, name, payload, now, None))
            event_id = db.last_insert_rowid()
            waiting = db.execute(_SQL["first_waiting_for_event"], (run.number, name)).get
            if waiting is None:
                return None
            self._take_event(db, waiting, event_id, payload)
            return str(waiting)

        taken_by = self._commit(work, durable=True)
        self._notify()
        return taken_by

    # -- cache and logs
    def cached(self, key: bytes, now: float) -> CacheRow | None:
        row = self._one(_SQL["cached"], (key,))
        if row is None or (row[2] is not None and row[2] <= now):
            return None
        return CacheRow(key, *row)

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        if rows:
            self._commit(lambda db: db.executemany(_SQL["add_log"], rows))

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        rows = self._all(_SQL["logs"], (number, after, limit))
        return [(row[0], LogRow(*row[1:])) for row in rows]

    # -- watching
    def version(self) -> int:
        with self._read_lock:
            return int(self._reader.pragma("data_version"))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._checkpointer.close()
        with self._committer.lock, self._read_lock:
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

    # -- inner
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
        row = db.execute(_SQL["run_by_id"], (run_id,)).get
        if row is None:
            raise RunNotFoundError(run_id)
        return run_from(row)

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._read_lock:
            self._committer.check_open()
            return self._reader.execute(sql, values).fetchall()

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        rows = self._all(sql, values)
        return rows[0] if rows else None


def _check_epoch(db: apsw.Connection, number: int, epoch: int) -> None:
    if db.execute(_SQL["run_epoch"], (number,)).get != epoch:
        raise Fenced(_LOST)


_journals: WeakSet[SqliteJournal] = WeakSet()


def _leave_to_parent() -> None:
    for journal in tuple(_journals):
        journal.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
