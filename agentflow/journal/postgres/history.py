"""Verbs of history: lives, ended runs that go on, runs that begin as copies."""

from __future__ import annotations

from collections.abc import Sequence

from agentflow.journal import rules
from agentflow.journal.postgres.base import PostgresBase, locked_run
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.rows import new_run_values, run_from
from agentflow.journal.sql.lives import lives_of
from agentflow.model.lives import Fork, Life
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow


class PostgresHistory(PostgresBase):
    """See `agentflow.journal.protocol.history.HistoryVerbs`."""

    def lives(self, number: int) -> list[Life]:
        run = b"SELECT * FROM run WHERE number = $1"
        return lives_of(self._all(SQL["lives"], (number,)), lambda: self._one(run, (number,)))

    def reopen_run(
        self, number: int, epoch: int, rows: Sequence[StepRow] = (), *, origin: Origin | None = None
    ) -> Run:
        def work(db: Session) -> Run:
            found = db.one(SQL["run_locked"], (number,))
            known = None if found is None else run_from(found)
            run = rules.check_reopening(known, epoch, owned=found is not None and bool(found[-1]))
            rules.check_payloads(run, db.value(SQL["pruned_at"], (number,)))
            origins = rules.with_origins(run.origins, () if origin is None else (origin,))
            _add(db, rows)
            db.do(SQL["reopen_run"], (",".join(origins), number))
            return run_from(db.all(SQL["run_by_id"], (run.id,))[0])

        self._bury_the_dead()
        run = self._commit(work)
        self._notify()
        return run

    def fork_run(self, new: NewRun, fork: Fork, rows: Sequence[StepRow], origins: Sequence[Origin]) -> Run:
        def work(db: Session) -> Run:
            source, held = locked_run(db, fork.source)
            if held:
                raise rules.being_run(source)
            rules.check_payloads(source, db.value(SQL["pruned_at"], (source.number,)))
            number = int(db.value(SQL["create_run"], new_run_values(new, StateType.PENDING, "")))
            everybody = rules.with_origins((new.origin,), origins)
            db.do(SQL["add_origin"], (",".join(everybody), number))
            _add(db, rules.renumbered(rows, number))
            copied = (number, fork.source, fork.step, fork.name, fork.taken, fork.changed, fork.happened)
            db.do(SQL["insert_fork"], copied)
            return run_from(db.all(SQL["run_by_id"], (new.id,))[0])

        self._bury_the_dead()
        run = self._commit(work)
        self._notify()
        return run

    def forked(self, numbers: Sequence[int]) -> list[int]:
        return [row[0] for row in self._all(SQL["forked"], (list(numbers),))]

    def fork_of(self, number: int) -> Fork | None:
        row = self._one(SQL["fork_of"], (number,))
        return None if row is None else Fork(*row[:4], changed=bool(row[4]), happened=row[5])


def _add(db: Session, rows: Sequence[StepRow]) -> None:
    if rows:
        db.each(SQL["append_step"], rows)
