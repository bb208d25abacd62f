"""Following a run from a tool call: until it ends, asks a person, or the call's patience is over - with progress.

Reads the journal and nothing else: whoever runs the run, whichever process, tells of it there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread

from agentflow.errors import RunNotFoundError
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepEvent, StepRow
from agentflow.model.waits import PERSON_KINDS, Wait, WaitKind

#: A question is asked once nothing else of the run moves, at the latest after these seconds.
_GATHER = 1.0
#: At most this many progress notifications for one look at the journal.
_BURST = 20

Progress = Callable[[int, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a run."""

    run: Run
    #: Its open waits.
    waits: Sequence[Wait]

    @property
    def questions(self) -> list[Wait]:
        """The open questions to people, oldest first."""
        return [wait for wait in self.waits if wait.kind in PERSON_KINDS]

    def asks(self, now: float) -> bool:
        """Whether a person should be asked now."""
        if self.run.state.is_final or not self.questions:
            return False
        return self.run.state is StateType.PAUSED or now - self.questions[0].opened > _GATHER

    def sleeps_beyond(self, moment: float) -> bool:
        """Whether the run certainly does not move before `moment` (seconds since the epoch): only timers run."""
        if self.run.state is not StateType.PAUSED or not self.waits:
            return False
        return all(wait.kind is WaitKind.TIMER and (wait.due or 0.0) > moment for wait in self.waits)


class Bell:
    """Rings when the journal may have changed; made by `listening`."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Wake the listener; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        """Wait for the next ring, for `seconds` at most, and never longer than the polling interval."""
        with anyio.move_on_after(max(0.0, min(seconds, self._interval))):
            await self._event.wait()
        self._event.clear()


@asynccontextmanager
async def listening(journal: Journal, interval: float) -> AsyncGenerator[Bell]:
    """A bell for changes of the journal that this process makes; those of others are seen every `interval` seconds."""
    bell = Bell(interval)
    undo = journal.subscribe(bell.ring)
    try:
        yield bell
    finally:
        undo()


@dataclass(slots=True)
class Follower:
    """Follows one run; knows what it has told already."""

    journal: Journal
    run_id: str
    bell: Bell
    progress: Progress | None = None
    _last: int = 0
    _ended: int = 0

    async def look(self) -> Sight:
        """See the run now, and tell of the steps that have ended since. Raises `RunNotFoundError`."""
        run, waits, rows = await anyio.to_thread.run_sync(self._read)
        names = self._names(rows)
        for index, name in enumerate(names):
            self._ended += 1
            if self.progress is not None and index >= len(names) - _BURST:
                await self.progress(self._ended, name)
        return Sight(run, waits)

    async def skip(self) -> None:
        """Take what has ended so far as told."""
        if self.progress is not None:
            _, _, rows = await anyio.to_thread.run_sync(self._read)
            self._ended += len(self._names(rows))

    async def until(self, seconds: float, *, stop: Callable[[Sight], bool]) -> Sight:
        """See the run when it has ended, when `stop` says so, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            sight = await self.look()
            left = deadline - time.monotonic()
            if sight.run.state.is_final or stop(sight) or left <= 0:
                return sight
            await self.bell.wait(left)

    def _names(self, rows: Sequence[StepRow]) -> list[str]:
        """The names of the steps that `rows` end; the run itself, whose place is empty, is none."""
        if rows:
            self._last = rows[-1].id
        return [row.name for row in rows if (row.scope or row.key) and StepEvent(row.event).is_end]

    def _read(self) -> tuple[Run, list[Wait], list[StepRow]]:
        # the run before its steps: what has ended here has all its rows below
        run = self.journal.get_run(self.run_id)
        if run is None:
            raise RunNotFoundError(self.run_id)
        waits = [] if run.state.is_final else self.journal.list_waits(number=run.number)
        return (
            run,
            waits,
            self.journal.steps(run.number, after=self._last) if self.progress is not None else [],
        )
