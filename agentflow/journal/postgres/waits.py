"""Verbs of waits and events: questions opened, answered, listed."""

from __future__ import annotations

import orjson

from agentflow.errors import RunFinishedError, WaitNotFoundError
from agentflow.journal import rules
from agentflow.journal.postgres.base import PostgresBase, check_epoch, locked_run
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.rows import decision_bytes, run_from, wait_from, wait_values
from agentflow.journal.sql.filters import waits_listed
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind


class PostgresWaits(PostgresBase):
    """See `agentflow.journal.protocol.waits.WaitVerbs`."""

    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        def work(db: Session) -> Wait:
            check_epoch(db, wait.run, epoch)
            if db.one(SQL["wait_by_id"], (wait.id,)) is not None:
                db.do(SQL["reopen_wait"], (wait.id,))
                return _stored(db, wait.id)
            db.do(SQL["open_wait"], wait_values(wait))
            if wait.kind is WaitKind.EVENT:
                event = db.one(SQL["first_untaken_event"], (wait.run, wait.name))
                if event is not None:
                    self._take_event(db, wait.id, *event)
            return _stored(db, wait.id)

        opened = self._commit(work)
        self._notify()
        return opened

    def _take_event(self, db: Session, wait_id: str, event_id: int, payload: bytes) -> None:
        decision = Decision(Verdict.ANSWERED, orjson.loads(payload), actor="event")
        db.do(SQL["decide_wait"], (decision_bytes(decision), self._now(db), "", wait_id))
        db.do(SQL["take_event"], (wait_id, event_id))

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        def work(db: Session) -> Wait:
            found = db.one(SQL["wait_by_id"], (wait_id,))
            if found is None:
                raise WaitNotFoundError(wait_id)
            run = db.all(SQL["run_locked"], (found[1],))[0]
            rules.check_decision(_stored(db, wait_id), run_from(run), decision, now)
            db.do(SQL["decide_wait"], (decision_bytes(decision), now, allowed_digest, wait_id))
            return _stored(db, wait_id)

        decided = self._commit(work)
        self._notify()
        return decided

    def withdraw_wait(self, epoch: int, wait: Wait) -> None:
        def work(db: Session) -> None:
            check_epoch(db, wait.run, epoch)
            db.do(SQL["withdraw_wait"], (self._now(db), wait.id))

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
        return [wait_from(row) for row in self._find(*listed)]

    def unread_answers(self, number: int) -> list[Wait]:
        return [wait_from(row) for row in self._all(SQL["unread_waits"], (number,))]

    def send_event(self, run_id: str, name: str, payload: bytes, now: float) -> str | None:
        def work(db: Session) -> str | None:
            run, _ = locked_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            orjson.loads(payload)
            event_id = int(db.value(SQL["insert_event"], (run.number, name, payload, now)))
            waiting = db.value(SQL["first_waiting_for_event"], (run.number, name))
            if waiting is None:
                return None
            self._take_event(db, waiting, event_id, payload)
            return str(waiting)

        taken_by = self._commit(work)
        self._notify()
        return taken_by


def _stored(db: Session, wait_id: str) -> Wait:
    return wait_from(db.all(SQL["wait_by_id"], (wait_id,))[0])
