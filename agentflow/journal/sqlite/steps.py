"""Verbs of steps: rows appended, intents of effects, rows read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import apsw

from agentflow.errors import Fenced
from agentflow.journal import rules, slots
from agentflow.journal.commits import Checkpointer
from agentflow.journal.protocol import CacheRow
from agentflow.journal.rows import wait_from
from agentflow.journal.sqlite.base import LOST, SQL, SqliteBase, check_epoch
from agentflow.journal.sqlite.cache import put_cache
from agentflow.journal.sqlite.slots import SqliteSlots
from agentflow.model.steps import SEQUENCE_BITS, StepRow

_FENCED = SQL["append_step_fenced"]
_APPEND = SQL["append_step"]
_step_row = cast("Callable[[Any], StepRow]", partial(cast("Any", tuple).__new__, StepRow))


class SqliteSteps(SqliteBase):
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
        if (
            not (durable or cache or consumed or released)
            and len(rows) == 1
            and self._append_one(rows[0], epoch)
        ):
            return

        def work(db: apsw.Connection) -> bool:
            check_epoch(db, number, epoch)
            db.executemany(_APPEND, rows)
            if cache:
                put_cache(db, cache)
            if consumed:
                now = self._clock()
                db.executemany(SQL["consume_wait"], [(now, wait_id) for wait_id in consumed])
            return bool(released) and slots.release(SqliteSlots(db, self._ownership), released, self._clock())

        if self._commit(work, durable=durable):
            self._notify()

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        if len(rows) == 1:
            return self._append_one(rows[0], epoch)

        def work(db: apsw.Connection) -> None:
            check_epoch(db, number, epoch)
            db.executemany(_APPEND, rows)

        if not self._committer.try_run(work):
            return False
        self._count(len(rows))
        return True

    def _append_one(self, row: StepRow, epoch: int) -> bool:
        changed = self._committer.try_execute(_FENCED, (*row, epoch))
        if changed is None:
            return False
        if not changed:
            raise Fenced(LOST)
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
            check_epoch(db, number, epoch)
            if wait_id:
                now = self._clock()
                found = db.execute(SQL["wait_by_id"], (wait_id,)).get
                rules.check_consumption(
                    None if found is None else wait_from(found), wait_id, number, digest, now, again=again
                )
                db.execute(SQL["consume_wait"], (now, wait_id))
            db.execute(_APPEND, row)

        self._commit(work, durable=True)

    def steps(self, number: int, after: int = 0, limit: int = -1) -> list[StepRow]:
        low = max(after, number << SEQUENCE_BITS)
        rows = self._all(SQL["steps"], (low, (number + 1) << SEQUENCE_BITS, limit))
        return list(map(_step_row, rows))
