"""Verbs of steps: rows appended, intents of effects, rows read back."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from operator import attrgetter

from agentflow.journal import rules, slots
from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.memory.slots import MemorySlots
from agentflow.journal.protocol import CacheRow
from agentflow.model.steps import StepRow

_id: Callable[[StepRow], int] = attrgetter("id")


class MemorySteps(MemoryBase):
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
        del durable
        with self._lock:
            self._check_epoch(number, epoch)
            self._add_steps(number, rows)
            self._put_cache(cache)
            for wait_id in consumed:
                self._consume(wait_id)
            told = slots.release(MemorySlots(self), released, self._clock())
        self._version += 1
        if told:
            self._notify()

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        self.append(number, epoch, rows)
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
        with self._lock:
            self._check_epoch(number, epoch)
            if wait_id:
                wait, now = self._waits.get(wait_id), self._clock()
                rules.check_consumption(wait, wait_id, number, digest, now, again=again)
            self._add_steps(number, [row])
            if wait_id:
                self._consume(wait_id)
        self._version += 1

    def steps(self, number: int, after: int = 0, limit: int = -1) -> list[StepRow]:
        with self._lock:
            rows = self._steps.get(number, [])
            start = bisect_right(rows, after, key=_id)
            return rows[start:] if limit < 0 else rows[start : start + limit]

    def _add_steps(self, number: int, rows: Sequence[StepRow]) -> None:
        steps, new = self._steps[number], {row.id for row in rows}
        places = [bisect_left(steps, row.id, key=_id) for row in rows]
        if len(new) < len(rows) or any(at < len(steps) and steps[at].id in new for at in places):
            raise ValueError("the journal holds this already (a step)")
        for row in rows:
            insort(steps, row, key=_id)
