"""What the event streams read: shared views of the journal, brought up to date once per change, however many watch.

A stream holds a position, never a queue: a slow reader costs nothing and gets the present state when it reads again.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agentflow.errors import RunNotFoundError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.limit_views import Queues
from agentflow.model.runs import Run
from agentflow.model.states import FINAL, StateType
from agentflow.model.waits import PERSON_KINDS, Wait
from agentflow.server.timeline import Timeline

OPEN_LIMIT = 200
_LISTED = 100
_KEPT_FEEDS = 12
_LIVE = tuple(state for state in StateType if state not in FINAL)


class RunFeed:
    """One run, its steps and its open waits, as of the last `refresh`."""

    def __init__(self, journal: Journal, run: Run) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._revision = -1
        self.run = run
        self.waits: list[Wait] = []
        #: Slots of limits that it waits for.
        self.awaited: list[dict[str, Any]] = []
        self.timeline = Timeline(journal.key)
        self.last_log = 0

    def refresh(self, revision: int = -1) -> RunFeed:
        """Read what is new. With a `revision` (of the hub): unless that has been read already."""
        with self._lock:
            if revision >= 0 and self._revision == revision:
                return self
            run = self._journal.get_run(self.run.id)
            if run is None:
                raise RunNotFoundError(self.run.id)
            # the run first: whatever belongs to its end is in the journal by then
            self.run = run
            self.waits = self._journal.list_waits(number=run.number)
            self.awaited = Queues(self._journal).awaited_by(run)
            self.timeline.feed(self._journal.steps(run.number, self.timeline.last))
            while lines := self._journal.logs(run.number, self.last_log):
                self.last_log = lines[-1][0]
            self._revision = revision
        return self


@dataclass(frozen=True, slots=True)
class Overview:
    """What the lists of runs, approvals and limits depend on."""

    open_waits: int
    #: Differs when a run, a wait or a slot of a limit has changed.
    mark: int


class Hub:
    """Sees that the journal has changed, and tells the streams of this process."""

    def __init__(self, journal: Journal, *, poll_interval: float) -> None:
        self._journal, self._interval = journal, poll_interval
        self._feeds: OrderedDict[str, RunFeed] = OrderedDict()
        self._lock = threading.Lock()
        self._overview = Overview(0, 0)
        self._overview_revision = -1
        self.revision = 0
        self.closed = False
        self._watchers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poke = asyncio.Event()
        self._turn = asyncio.Event()

    # -- life
    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Watch the journal while the block is open."""
        self._loop = asyncio.get_running_loop()
        undo = self._journal.subscribe(self._on_change)
        task = asyncio.create_task(self._watch(), name="agentflow-hub")
        try:
            yield
        finally:
            undo()
            self.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def close(self) -> None:
        """End every stream; from the loop's thread."""
        self.closed = True
        self._turn.set()

    def _on_change(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._poke.set)
            except RuntimeError:  # it has just been closed
                return

    async def _watch(self) -> None:
        seen = -1
        while True:
            told = True
            try:
                async with asyncio.timeout(self._interval if self._watchers else None):
                    await self._poke.wait()
            except TimeoutError:
                told = False
            self._poke.clear()
            if not self._watchers:
                continue
            version = await asyncio.to_thread(self._journal.version)
            if told or version != seen:
                seen = version
                self.revision += 1
                turn, self._turn = self._turn, asyncio.Event()
                turn.set()

    @asynccontextmanager
    async def watcher(self) -> AsyncGenerator[None]:
        """Counts as somebody who watches while the block is open; without any, the journal is left in peace."""
        self._watchers += 1
        self._poke.set()
        try:
            yield
        finally:
            self._watchers -= 1

    async def wait(self, seen: int, patience: float) -> bool:
        """Wait until the revision is not `seen`; False after `patience` seconds without a change."""
        while self.revision == seen and not self.closed:
            turn = self._turn
            try:
                async with asyncio.timeout(patience):
                    await turn.wait()
            except TimeoutError:
                return False
        return True

    # -- what the streams show; these block
    def feed(self, run_id: str) -> RunFeed:
        """The shared view of a run. Raises `RunNotFoundError`."""
        with self._lock:
            found = self._feeds.get(run_id)
            if found is not None:
                self._feeds.move_to_end(run_id)
                return found
        run = self._journal.get_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        with self._lock:
            made = self._feeds.setdefault(run_id, RunFeed(self._journal, run))
            while len(self._feeds) > _KEPT_FEEDS:
                self._feeds.popitem(last=False)
        return made

    def overview(self, revision: int) -> Overview:
        """What the lists depend on, read once per revision."""
        with self._lock:
            if self._overview_revision != revision:
                self._overview, self._overview_revision = self._read_overview(), revision
            return self._overview

    def _read_overview(self) -> Overview:
        waits = self._journal.list_waits(kinds=PERSON_KINDS, limit=OPEN_LIMIT)
        runs = self._journal.list_runs(RunFilter(limit=_LISTED))
        runs += self._journal.list_runs(RunFilter(limit=_LISTED, states=_LIVE))
        marks: list[Any] = [(run.number, run.state, run.message) for run in runs]
        marks += self._journal.list_limits()
        marks += [(slot.claim, slot.limit, slot.granted) for slot in self._journal.list_slots()]
        return Overview(len(waits), hash((tuple(marks), tuple(wait.id for wait in waits))))
