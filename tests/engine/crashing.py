"""A journal that dies at a chosen write, in this process: before the commit, or right after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from agentflow.model.waits import Wait


class Crash(BaseException):
    """The process has died."""


class CrashingJournal(MemoryJournal):
    """A memory journal whose writes can be made to end the world at the n-th one."""

    def __init__(self) -> None:
        super().__init__(b"k" * 32)
        self.writes = 0
        #: Crash at this write (from 1); odd = before it is stored, even = after.
        self.at = 0
        self.dead = False
        #: Effects, steps, ... that were stored, in order.
        self.history: list[str] = []

    def revive(self) -> None:
        """Another process opens what is left."""
        self.dead, self.at = False, 0

    def get_run_of(self, number: int) -> str | None:
        """The id of the run of that number."""
        run = self._runs.get(number)
        return run.id if run is not None else None

    def _tick(self) -> None:
        if self.dead:
            raise Crash
        self.writes += 1
        if self.writes == self.at:
            self.dead = True
            raise Crash

    def _wrapped(self, write: Callable[[], Any]) -> Any:
        self._tick()
        result = write()
        self._tick()
        return result

    def append(self, number: int, epoch: int, rows: Sequence[StepRow], **options: Any) -> None:
        self._wrapped(lambda: super(CrashingJournal, self).append(number, epoch, rows, **options))

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        self.append(number, epoch, rows)
        return True

    def start_effect(self, number: int, epoch: int, row: StepRow, **options: Any) -> None:
        self._wrapped(lambda: super(CrashingJournal, self).start_effect(number, epoch, row, **options))

    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        return self._wrapped(lambda: super(CrashingJournal, self).open_wait(epoch, wait))

    def set_state(self, number: int, epoch: int, state: StateType, **options: Any) -> None:
        if not options.get("durable", True):  # the live view's word; said by a thread, at any time
            if not self.dead:
                super().set_state(number, epoch, state, **options)
            return
        self._wrapped(lambda: super(CrashingJournal, self).set_state(number, epoch, state, **options))
