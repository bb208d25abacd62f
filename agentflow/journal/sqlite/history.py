"""Verbs of history: lives, ended runs that go on, runs that begin as copies."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import orjson

from agentflow.journal import rules
from agentflow.journal.rows import new_run_values, run_from
from agentflow.journal.sql.lives import lives_of
from agentflow.journal.sqlite.base import SQL, SqliteBase
from agentflow.model.lives import Fork, Life
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow


class SqliteHistory(SqliteBase):
    """See `agentflow.journal.protocol.history.HistoryVerbs`."""

    def lives(self, number: int) -> list[Life]:
        run = "SELECT * FROM run WHERE number = ?"
        return lives_of(self._all(SQL["lives"], (number,)), lambda: self._one(run, (number,)))

    def reopen_run(
        self, number: int, epoch: int, rows: Sequence[StepRow] = (), *, origin: Origin | None = None
    ) -> Run:
        def work(db: apsw.Connection) -> Run:
            found = db.execute("SELECT * FROM run WHERE number = ?", (number,)).get
            run = rules.check_reopening(
                None if found is None else run_from(found),
                epoch,
                owned=self._ownership.is_held(number, epoch),
            )
            rules.check_payloads(run, db.execute(SQL["pruned_at"], (number,)).get)
            origins = rules.with_origins(run.origins, () if origin is None else (origin,))
            db.executemany(SQL["append_step"], rows)
            db.execute(SQL["reopen_run"], (",".join(origins), number))
            return self._need_run(db, run.id)

        run = self._commit(work, durable=True)
        self._notify()
        return run

    def fork_run(self, new: NewRun, fork: Fork, rows: Sequence[StepRow], origins: Sequence[Origin]) -> Run:
        values = new_run_values(new, StateType.PENDING, "")

        def work(db: apsw.Connection) -> Run:
            source = self._need_run(db, fork.source)
            if self._ownership.is_held(source.number, source.epoch):
                raise rules.being_run(source)
            rules.check_payloads(source, db.execute(SQL["pruned_at"], (source.number,)).get)
            number: int = db.execute(SQL["create_run"], values).get
            everybody = rules.with_origins((new.origin,), origins)
            db.execute(SQL["add_origin"], (",".join(everybody), number))
            db.executemany(SQL["append_step"], rules.renumbered(rows, number))
            db.execute(
                SQL["insert_fork"],
                (number, fork.source, fork.step, fork.name, fork.taken, int(fork.changed), fork.happened),
            )
            return self._need_run(db, new.id)

        run = self._commit(work, durable=True)
        self._notify()
        return run

    def forked(self, numbers: Sequence[int]) -> list[int]:
        return [row[0] for row in self._all(SQL["forked"], (orjson.dumps(numbers).decode(),))]

    def fork_of(self, number: int) -> Fork | None:
        row = self._one(SQL["fork_of"], (number,))
        return None if row is None else Fork(*row[:4], changed=bool(row[4]), happened=row[5])
