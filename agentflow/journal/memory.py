"""The reference journal: plain dictionaries under one lock. For tests, and as the oracle of the other stores."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import orjson

from agentflow.errors import Fenced, RunFinishedError, RunNotFoundError, RunOwnedError, WaitNotFoundError
from agentflow.journal import rules
from agentflow.journal.protocol import CacheRow, RunFilter
from agentflow.journal.rows import new_run
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow, StepRow
from agentflow.model.waits import Decision, EventRow, Verdict, Wait, WaitKind

_id: Callable[[StepRow], int] = attrgetter("id")


class MemoryJournal:
    """See `agentflow.journal.protocol.Journal`. Dies with its process."""

    def __init__(self, key: bytes | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.key = key or os.urandom(32)
        self._clock = clock
        self.url = "memory:"
        self._lock = threading.RLock()
        self._runs: dict[int, Run] = {}
        self._numbers: dict[str, int] = {}
        self._owned: set[int] = set()
        self._steps: dict[int, list[StepRow]] = {}
        self._waits: dict[str, Wait] = {}
        self._events: list[EventRow] = []
        self._cache: dict[bytes, CacheRow] = {}
        self._logs: list[LogRow] = []
        self._version = 0
        self._listeners: list[Callable[[], None]] = []

    # -- runs
    def create_run(self, new: NewRun, *, state: StateType = StateType.RUNNING) -> Run:
        with self._lock:
            if new.id in self._numbers:
                raise ValueError(f"the journal holds this already (run {new.id})")
            number = len(self._runs) + 1
            run = new_run(new, state, f"memory:{os.getpid()}", number)
            self._runs[number], self._numbers[new.id], self._steps[number] = run, number, []
            if state is StateType.RUNNING:
                self._owned.add(number)
        self._notify()
        return run

    def claim_run(self, run_id: str, *, take_over: bool = False) -> Run:
        with self._lock:
            run = self._need_run(run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            if run.number in self._owned and not take_over:
                raise RunOwnedError(run_id, run.owner or "another process")
            self._owned.add(run.number)
            stays = run.state is StateType.CANCELLING
            run = replace(
                run,
                epoch=run.epoch + 1,
                owner=f"memory:{os.getpid()}",
                started=self._clock() if run.started is None else run.started,
                crashes=run.crashes + (run.state is StateType.RUNNING and bool(run.owner)),
                state=run.state if stays else StateType.RUNNING,
                message="",
            )
            self._runs[run.number] = run
        self._notify()
        return run

    def release_run(self, run: Run) -> None:
        with self._lock:
            now = self._runs[run.number]
            if now.epoch == run.epoch:
                self._runs[run.number] = replace(now, owner="")
                self._owned.discard(run.number)
        self._notify()

    def set_state(
        self,
        number: int,
        epoch: int,
        state: StateType,
        *,
        message: str = "",
        result: bytes | None = None,
        error: bytes | None = None,
        durable: bool = True,
        release: bool = False,
    ) -> None:
        del durable
        with self._lock:
            run = self._runs.get(number)
            stored = rules.next_state(run and (run.state, run.epoch), epoch, state)
            ended = self._clock() if state.is_final else None
            before = self._runs[number]
            owner = "" if release else before.owner
            self._runs[number] = replace(
                before, state=stored, message=message, result=result, error=error, ended=ended, owner=owner
            )
            if release:
                self._owned.discard(number)
        self._notify()

    def add_origin(self, run_id: str, origin: Origin) -> None:
        with self._lock:
            run = self._need_run(run_id)
            if origin not in run.origins:
                self._runs[run.number] = replace(run, origins=(*run.origins, origin))

    def request_cancel(self, run_id: str, message: str) -> Run:
        with self._lock:
            run = self._need_run(run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            if run.number not in self._owned:
                run = replace(run, state=StateType.CANCELLED, message=message, ended=self._clock())
            else:
                run = replace(run, state=StateType.CANCELLING, message=message)
            self._runs[run.number] = run
        self._notify()
        return run

    def get_run(self, run_id: str) -> Run | None:
        with self._lock:
            number = self._numbers.get(run_id)
            return None if number is None else self._runs[number]

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        with self._lock:
            runs = sorted(self._runs.values(), key=lambda run: -run.number)
        return [
            run
            for run in runs
            if (not wanted.states or run.state in wanted.states)
            and (not wanted.flow or run.flow == wanted.flow)
            and (wanted.before is None or run.number < wanted.before)
            and run.id.endswith(wanted.id_end)
        ][: wanted.limit]

    def due_runs(self, now: float) -> list[Run]:
        with self._lock:
            return [run for run in self._runs.values() if self._is_due(run, now)]

    def _is_due(self, run: Run, now: float) -> bool:
        if run.state.is_final or run.state is StateType.SCHEDULED or run.number in self._owned:
            return False
        if run.state is not StateType.PAUSED:
            return True
        waits = [wait for wait in self._waits.values() if wait.run == run.number and wait.consumed is None]
        return any(wait.decided is not None or (wait.due is not None and wait.due <= now) for wait in waits)

    def is_owned(self, run: Run) -> bool:
        return run.number in self._owned

    # -- steps
    def append(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        *,
        durable: bool = False,
        cache: Sequence[CacheRow] = (),
        consumed: Sequence[str] = (),
    ) -> None:
        del durable
        with self._lock:
            self._check_epoch(number, epoch)
            self._add_steps(number, rows)
            for entry in cache:
                self._cache[entry.key] = entry
            for wait_id in consumed:
                self._consume(wait_id)
        self._version += 1

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

    # -- waits
    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        with self._lock:
            self._check_epoch(wait.run, epoch)
            if wait.id in self._waits:
                return self._waits[wait.id]
            self._waits[wait.id] = wait
            if wait.kind is WaitKind.EVENT:
                waiting = (
                    event
                    for event in self._events
                    if event.run == wait.run and event.name == wait.name and event.taken_by is None
                )
                event = next(waiting, None)
                if event is not None:
                    self._take_event(wait.id, event)
        self._notify()
        return self._waits[wait.id]

    def _take_event(self, wait_id: str, event: EventRow) -> None:
        self._events[event.id - 1] = replace(event, taken_by=wait_id)
        decision = Decision(Verdict.ANSWERED, event.payload, actor="event")
        self._waits[wait_id] = replace(self._waits[wait_id], decision=decision, decided=self._clock())

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        with self._lock:
            wait = self._waits.get(wait_id)
            if wait is None:
                raise WaitNotFoundError(wait_id)
            rules.check_decision(wait, self._runs[wait.run], decision, now)
            wait = replace(wait, decision=decision, decided=now, allowed_digest=allowed_digest)
            self._waits[wait_id] = wait
        self._notify()
        return wait

    def get_wait(self, wait_id: str) -> Wait | None:
        return self._waits.get(wait_id)

    def list_waits(
        self,
        *,
        number: int | None = None,
        open_only: bool = True,
        kinds: frozenset[WaitKind] = frozenset(),
        limit: int = 200,
    ) -> list[Wait]:
        with self._lock:
            found = [
                wait
                for wait in self._waits.values()
                if (not open_only or (wait.is_open and not self._runs[wait.run].state.is_final))
                and (number is None or wait.run == number)
                and (not kinds or wait.kind in kinds)
            ]
        found.sort(key=lambda wait: (wait.opened, wait.id), reverse=not open_only and number is None)
        return found[:limit]

    def unread_answers(self, number: int) -> list[Wait]:
        with self._lock:
            waits = [wait for wait in self._waits.values() if wait.run == number]
        unread = [wait for wait in waits if wait.consumed is None and wait.decided is not None]
        return sorted(unread, key=lambda wait: (wait.opened, wait.id))

    def send_event(self, run_id: str, name: str, payload: bytes, now: float) -> str | None:
        with self._lock:
            run = self._need_run(run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            event = EventRow(len(self._events) + 1, run.number, name, orjson.loads(payload), now)
            self._events.append(event)
            waiting = [
                wait
                for wait in self._waits.values()
                if wait.run == run.number
                and wait.name == name
                and wait.kind is WaitKind.EVENT
                and wait.is_open
            ]
            taker = min(waiting, key=lambda wait: (wait.opened, wait.id), default=None)
            if taker is not None:
                self._take_event(taker.id, event)
        self._notify()
        return taker and taker.id

    # -- cache and logs
    def cached(self, key: bytes, now: float) -> CacheRow | None:
        row = self._cache.get(key)
        return None if row is None or (row.expires is not None and row.expires <= now) else row

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        with self._lock:
            self._logs.extend(rows)

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        with self._lock:
            numbered = [(index, row) for index, row in enumerate(self._logs, 1) if row.run == number]
        return [item for item in numbered if item[0] > after][:limit]

    # -- watching
    def version(self) -> int:
        return self._version

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def close(self) -> None:
        self._owned.clear()

    # -- inner
    def _notify(self) -> None:
        self._version += 1
        for callback in tuple(self._listeners):
            callback()

    def _need_run(self, run_id: str) -> Run:
        run = self.get_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    def _check_epoch(self, number: int, epoch: int) -> None:
        run: Any = self._runs.get(number)
        if run is None or run.epoch != epoch:
            message = "another process has taken this run over"
            raise Fenced(message)

    def _add_steps(self, number: int, rows: Sequence[StepRow]) -> None:
        steps, new = self._steps[number], {row.id for row in rows}
        places = [bisect_left(steps, row.id, key=_id) for row in rows]
        if len(new) < len(rows) or any(at < len(steps) and steps[at].id in new for at in places):
            raise ValueError("the journal holds this already (a step)")
        for row in rows:
            insort(steps, row, key=_id)

    def _consume(self, wait_id: str) -> None:
        wait = self._waits.get(wait_id)
        if wait is not None and wait.consumed is None:
            self._waits[wait_id] = replace(wait, consumed=self._clock())
