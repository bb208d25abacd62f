"""Verbs of retention: payloads of runs that ended long ago are removed."""

from __future__ import annotations

from agentflow.journal import rules
from agentflow.journal.postgres.base import PostgresBase
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.protocol.retention import Pruned
from agentflow.model.steps import SEQUENCE_BITS


class PostgresRetention(PostgresBase):
    """See `agentflow.journal.protocol.retention.RetentionVerbs`."""

    def prune_runs(
        self, ended_before: float, *, after: int = 0, limit: int = 100, dry_run: bool = False
    ) -> Pruned:
        def work(db: Session) -> Pruned:
            found = db.all(SQL["prunable" if dry_run else "prunable_locked"], (after, ended_before, limit))
            numbers: list[int] = [row[0] for row in found]
            done = Pruned(last=numbers[-1] if len(numbers) == limit else 0)
            now = self._now(db)
            for number in numbers:
                span = (number << SEQUENCE_BITS, (number + 1) << SEQUENCE_BITS)
                sizes = [db.all(SQL["size_of_steps"], span)[0], db.all(SQL["size_of_run"], (number,))[0]]
                done = rules.and_pruned(done, sizes, db.value(SQL["count_logs"], (number,)))
                if dry_run:
                    continue
                with db.in_one_go():
                    db.do(SQL["prune_steps"], span)
                    db.do(SQL["prune_run"], (rules.NOTHING, number))
                    db.do(SQL["prune_logs"], (number,))
                    db.do(SQL["prune_events"], (number,))
                    db.do(SQL["mark_pruned"], (number, now))
            return done

        return self._commit(work)

    def pruned_at(self, number: int) -> float | None:
        row = self._one(SQL["pruned_at"], (number,))
        return None if row is None else row[0]
