"""Lives of a run over one journal file: each opens it anew, as another process would, and may be killed at a write."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentflow import Flow
from agentflow.approvals.decisions import decide
from agentflow.approvals.gate import DEFAULT_GATE
from agentflow.engine.active import Options
from agentflow.engine.flow_run import Outcome
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from agentflow.model.waits import Channel, Verdict, Wait
from agentflow.settings import Settings

KEY = b"k" * 32


class Killed(BaseException):
    """The process is dead."""


class Mortal:
    """A journal whose process dies at write number `at` (from 1), before or after it reaches the file."""

    def __init__(
        self, journal: SqliteJournal, *, at: int | None = None, after: bool = True, at_end: bool
    ) -> None:
        self._journal = journal
        self._at, self._after, self._at_end = at, after, at_end
        self._dead = False
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        return (
            functools.partial(self._write, found)
            if name in ("append", "try_append", "start_effect")
            else found
        )

    def _write(self, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._dead:
            raise Killed
        if self.writes + 1 == self._at and not self._after:
            self._dead = True
            raise Killed
        written = write(*args, **kwargs)
        self.writes += written is not False
        if self.writes == self._at:
            self._dead = True
            raise Killed
        return written

    def set_state(self, number: int, epoch: int, state: StateType, **options: Any) -> None:
        """States are no kill points, but a dead process changes none, and one that dies at its end does not end."""
        if self._dead or (self._at_end and state.is_final):
            self._dead = True
            raise Killed
        self._journal.set_state(number, epoch, state, **options)


class Lives:
    """Lives of one run."""

    def __init__(
        self, folder: Path, flow: Flow[..., Any], *args: Any, suspend_after: float | None = 0.0
    ) -> None:
        self.path = folder / "agentflow.db"
        self.flow = flow
        self.arguments = flow.binder.arguments(args, {})
        self.run_id = ""
        #: Seconds that retries waited, in order; nobody really sleeps.
        self.naps: list[float] = []
        self.writes = 0
        settings = Settings(home=folder, quiet_grace=0.005, poll_interval=0.01)
        self.options = Options(
            settings=settings,
            sleep=self.naps.append,
            sleep_async=self._nap,
            random=lambda: 0.0,
            suspend_after=suspend_after,
            gate=DEFAULT_GATE,
        )

    def _nap(self, seconds: float) -> Awaitable[Any]:
        self.naps.append(seconds)
        return asyncio.sleep(0)

    @contextmanager
    def journal(self) -> Generator[SqliteJournal]:
        """The journal, opened for a while."""
        journal = SqliteJournal(self.path, KEY)
        try:
            yield journal
        finally:
            journal.close()

    async def live(
        self, *, at: int | None = None, after: bool = True, at_end: bool = False
    ) -> Outcome | None:
        """One life; None if it was killed."""
        with self.journal() as inner:
            journal: Any = Mortal(inner, at=at, after=after, at_end=at_end)
            try:
                if self.run_id:
                    return await self.flow.resume_async(self.run_id, journal=journal, options=self.options)
                return await self._first(journal)
            except Killed:
                return None
            except BaseExceptionGroup as group:
                if group.split(Killed)[1] is not None:
                    raise
                return None
            finally:
                self.writes = journal.writes

    async def _first(self, journal: Journal) -> Outcome:
        try:
            return await self.flow.run_async(self.arguments, journal=journal, options=self.options)
        finally:
            self.run_id = journal.list_runs(_ALL)[0].id

    def live_blocking(self, *, at_end: bool = False) -> Outcome | None:
        """One life of a sync flow; None if it was killed."""
        with self.journal() as inner:
            journal: Any = Mortal(inner, at_end=at_end)
            try:
                if self.run_id:
                    return self.flow.resume(self.run_id, journal=journal, options=self.options)
                return self.flow.run(self.arguments, journal=journal, options=self.options)
            except Killed:
                return None
            finally:
                self.run_id = inner.list_runs(_ALL)[0].id

    # -- what the journal holds
    def rows(self, **wanted: str) -> list[StepRow]:
        """Rows of the run whose fields have these values."""
        with self.journal() as journal:
            run = journal.get_run(self.run_id)
            rows = [] if run is None else journal.steps(run.number)
        return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]

    def waits(self) -> list[Wait]:
        """The questions that are open, oldest first."""
        with self.journal() as journal:
            return journal.list_waits()

    def decide(self, wait: Wait, verdict: Verdict, answer: Any = None, reason: str = "") -> None:
        """Decide as a person."""
        with self.journal() as journal:
            decide(journal, wait.id, verdict, answer=answer, reason=reason, actor="ann", channel=Channel.CODE)

    def stored_bytes(self) -> bytes:
        """Everything that the journal's files hold."""
        return b"".join(path.read_bytes() for path in sorted(self.path.parent.glob(self.path.name + "*")))


_ALL = RunFilter()
