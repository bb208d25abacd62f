"""Verbs of steps: rows appended, intents of effects, rows read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from agentflow.journal import rules, slots
from agentflow.journal.postgres.base import Alone, PostgresBase, alone, check_epoch
from agentflow.journal.postgres.cache import cache_statements
from agentflow.journal.postgres.commits import Append
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.slots import PostgresSlots
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.protocol import CacheRow
from agentflow.journal.rows import wait_from
from agentflow.model.steps import SEQUENCE_BITS, StepRow

_step_row = cast("Callable[[Any], StepRow]", partial(cast("Any", tuple).__new__, StepRow))


class PostgresSteps(PostgresBase):
    """See `agentflow.journal.protocol.steps.StepVerbs`."""

    def append(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        *,
        durable: bool = False,
        cache: Sequence[CacheRow] = (),
        consumed: Sequence[str] = (),
        released: Sequence[str] = (),
    ) -> None:
        if released:
            self._append_and_release(number, epoch, rows, cache, consumed, released, durable=durable)
            return
        if not (durable or cache or consumed) and self.try_append(number, epoch, rows):
            return
        more = self._with(cache, consumed)
        self._committer.append(Append(number, epoch, rows, more, durable=durable))

    def _with(
        self, cache: Sequence[CacheRow], consumed: Sequence[str]
    ) -> list[tuple[bytes, Sequence[Sequence[Any]]]]:
        more = cache_statements(cache)
        if consumed:
            now = (self._clock or time.time)()
            more.append((SQL["consume_wait"], [(now, wait_id) for wait_id in consumed]))
        return more

    def _append_and_release(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        cache: Sequence[CacheRow],
        consumed: Sequence[str],
        released: Sequence[str],
        *,
        durable: bool,
    ) -> None:
        def work(db: Session) -> bool:
            alone(db, Alone.LIMITS)
            check_epoch(db, number, epoch)
            if rows:
                db.each(SQL["append_step"], rows)
            for statement, values in self._with(cache, consumed):
                db.each(statement, values)
            return slots.release(PostgresSlots(db), released, self._now(db))

        if self._commit(work, durable=durable):
            self._notify()

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        return bool(rows) and self._committer.try_append(number, epoch, rows)

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
        if not wait_id:
            self._committer.append(Append(number, epoch, [row], durable=True))
            return

        def work(db: Session) -> None:
            check_epoch(db, number, epoch)
            found, now = db.one(SQL["wait_by_id"], (wait_id,)), self._now(db)
            rules.check_consumption(
                None if found is None else wait_from(found), wait_id, number, digest, now, again=again
            )
            db.do(SQL["consume_wait"], (now, wait_id))
            db.do(SQL["append_step"], row)

        self._commit(work)

    def steps(self, number: int, after: int = 0, limit: int = -1) -> list[StepRow]:
        low = max(after, number << SEQUENCE_BITS)
        values = (low, (number + 1) << SEQUENCE_BITS, None if limit < 0 else limit)
        return list(map(_step_row, self._all(SQL["steps"], values)))
