"""Verbs of retention: payloads of runs that ended long ago are removed."""

from __future__ import annotations

from typing import Any

import apsw

from agentflow.journal import rules
from agentflow.journal.protocol.retention import Pruned
from agentflow.journal.sqlite.base import SQL, SqliteBase
from agentflow.model.steps import SEQUENCE_BITS


class SqliteRetention(SqliteBase):
    """See `agentflow.journal.protocol.retention.RetentionVerbs`."""

    def prune_runs(
        self, ended_before: float, *, after: int = 0, limit: int = 100, dry_run: bool = False
    ) -> Pruned:
        now = self._clock()

        def work(db: apsw.Connection) -> Pruned:
            found = db.execute(SQL["prunable"], (after, ended_before, limit)).fetchall()
            numbers: list[Any] = [number for (number,) in found]
            done = Pruned(last=numbers[-1] if len(numbers) == limit else 0)
            for number in numbers:
                span = (number << SEQUENCE_BITS, (number + 1) << SEQUENCE_BITS)
                sizes = [
                    db.execute(SQL["size_of_steps"], span).get,
                    db.execute(SQL["size_of_run"], (number,)).get,
                ]
                done = rules.and_pruned(done, sizes, db.execute(SQL["count_logs"], (number,)).get)
                if dry_run:
                    continue
                db.execute(SQL["prune_steps"], span)
                db.execute(SQL["prune_run"], (rules.NOTHING, number))
                db.execute(SQL["prune_logs"], (number,))
                db.execute(SQL["prune_events"], (number,))
                db.execute(SQL["mark_pruned"], (number, now))
            return done

        done = self._commit(work)
        if not dry_run:
            self._count(done.values)
        return done

    def pruned_at(self, number: int) -> float | None:
        row = self._one(SQL["pruned_at"], (number,))
        return None if row is None else row[0]
