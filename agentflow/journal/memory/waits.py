"""Verbs of waits and events: questions opened, answered, listed."""

from __future__ import annotations

from dataclasses import replace

import orjson

from agentflow.errors import RunFinishedError, WaitNotFoundError
from agentflow.journal import rules
from agentflow.journal.memory.base import MemoryBase
from agentflow.model.waits import Decision, EventRow, Verdict, Wait, WaitKind


class MemoryWaits(MemoryBase):
    """See `agentflow.journal.protocol.waits.WaitVerbs`."""

    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        with self._lock:
            self._check_epoch(wait.run, epoch)
            if wait.id in self._waits:
                known = self._waits[wait.id]
                if known.decision is None and known.consumed is not None:
                    known = self._waits[wait.id] = replace(known, consumed=None)
                return known
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

    def withdraw_wait(self, epoch: int, wait: Wait) -> None:
        with self._lock:
            self._check_epoch(wait.run, epoch)
            if self._waits[wait.id].decision is None:
                self._consume(wait.id)
        self._notify()

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
