"""Verbs of waits and events: questions opened, answered, listed."""

from __future__ import annotations

import apsw
import orjson

from agentflow.errors import RunFinishedError, WaitNotFoundError
from agentflow.journal import rules
from agentflow.journal.rows import decision_bytes, run_from, wait_from, wait_values
from agentflow.journal.sql.filters import waits_listed
from agentflow.journal.sqlite.base import SQL, SqliteBase, check_epoch
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind


class SqliteWaits(SqliteBase):
    """See `agentflow.journal.protocol.waits.WaitVerbs`."""

    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        def work(db: apsw.Connection) -> Wait:
            check_epoch(db, wait.run, epoch)
            existing = db.execute(SQL["wait_by_id"], (wait.id,)).get
            if existing is not None:
                db.execute(SQL["reopen_wait"], (wait.id,))
                return wait_from(db.execute(SQL["wait_by_id"], (wait.id,)).get)
            db.execute(SQL["open_wait"], wait_values(wait))
            if wait.kind is WaitKind.EVENT:
                event = db.execute(SQL["first_untaken_event"], (wait.run, wait.name)).get
                if event is not None:
                    self._take_event(db, wait.id, event[0], event[1])
            return wait_from(db.execute(SQL["wait_by_id"], (wait.id,)).get)

        opened = self._commit(work, durable=True)
        self._notify()
        return opened

    def _take_event(self, db: apsw.Connection, wait_id: str, event_id: int, payload: bytes) -> None:
        decision = Decision(Verdict.ANSWERED, orjson.loads(payload), actor="event")
        db.execute(SQL["decide_wait"], (decision_bytes(decision), self._clock(), "", wait_id))
        db.execute(SQL["take_event"], (wait_id, event_id))

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        def work(db: apsw.Connection) -> Wait:
            found = db.execute(SQL["wait_by_id"], (wait_id,)).get
            if found is None:
                raise WaitNotFoundError(wait_id)
            wait = wait_from(found)
            run = run_from(db.execute("SELECT * FROM run WHERE number = ?", (wait.run,)).get)
            rules.check_decision(wait, run, decision, now)
            db.execute(SQL["decide_wait"], (decision_bytes(decision), now, allowed_digest, wait_id))
            return wait_from(db.execute(SQL["wait_by_id"], (wait_id,)).get)

        decided = self._commit(work, durable=True)
        self._notify()
        return decided

    def withdraw_wait(self, epoch: int, wait: Wait) -> None:
        def work(db: apsw.Connection) -> None:
            check_epoch(db, wait.run, epoch)
            db.execute(SQL["withdraw_wait"], (self._clock(), wait.id))

        self._commit(work)
        self._notify()

    def get_wait(self, wait_id: str) -> Wait | None:
        row = self._one(SQL["wait_by_id"], (wait_id,))
        return None if row is None else wait_from(row)

    def list_waits(
        self,
        *,
        number: int | None = None,
        open_only: bool = True,
        kinds: frozenset[WaitKind] = frozenset(),
        limit: int = 200,
    ) -> list[Wait]:
        listed = waits_listed(number, kinds, open_only=open_only, limit=limit)
        return [wait_from(row) for row in self._all(*listed)]

    def unread_answers(self, number: int) -> list[Wait]:
        return [wait_from(row) for row in self._all(SQL["unread_waits"], (number,))]

    def send_event(self, run_id: str, name: str, payload: bytes, now: float) -> str | None:
        def work(db: apsw.Connection) -> str | None:
            run = self._need_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            orjson.loads(payload)
            event_id: int = db.execute(SQL["insert_event"], (run.number, name, payload, now)).get
            waiting = db.execute(SQL["first_waiting_for_event"], (run.number, name)).get
            if waiting is None:
                return None
            self._take_event(db, waiting, event_id, payload)
            return str(waiting)

        taken_by = self._commit(work, durable=True)
        self._notify()
        return taken_by
