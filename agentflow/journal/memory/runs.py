"""Verbs of runs: made, claimed, moved from state to state, listed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from agentflow.errors import (
    JournalUnavailable,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    Unwinding,
)
from agentflow.journal import rules
from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.protocol import RunClaim, RunEnd, RunFilter
from agentflow.journal.rows import new_run
from agentflow.model.lives import LifeEnd, end_of, last_words
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType


class MemoryRuns(MemoryBase):
    """See `agentflow.journal.protocol.runs.RunVerbs`."""

    def create_run(
        self, new: NewRun, *, state: StateType = StateType.RUNNING, owned: bool | None = None
    ) -> Run:
        owned = state is StateType.RUNNING if owned is None else owned
        with self._lock:
            if new.id in self._numbers:
                raise ValueError(f"the journal holds this already (run {new.id})")
            above = self._run(new.parent) if new.parent else None
            if above is not None:
                rules.check_parent(above.state, above.message)
            if new.deployment:
                found = self._deployments.get(new.deployment)
                rules.check_deployment(new.deployment, None if found is None else int(found.paused))
            number = len(self._runs) + 1
            run = new_run(new, state, f"memory:{os.getpid()}" if owned else "", number)
            self._runs[number], self._numbers[new.id], self._steps[number] = run, number, []
            if owned:
                self._owned.add(number)
                self._begin_life(run, new.fingerprint, new.origin, new.created)
        self._notify()
        return run

    def claim_run(
        self,
        run_id: str,
        *,
        take_over: bool = False,
        start: bool = True,
        fingerprint: str = "",
        origin: Origin | None = None,
    ) -> Run:
        with self._lock:
            run = self._need_run(run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            if run.number in self._owned and not take_over:
                raise RunOwnedError(run_id, run.owner or "another process")
            lost = LifeEnd.TAKEN_OVER if run.number in self._owned else LifeEnd.CRASHED
            self._end_life(run.number, run.epoch, lost, last_words(run.state))
            self._owned.add(run.number)
            stays = run.state is StateType.CANCELLING or not start
            run = replace(
                run,
                epoch=run.epoch + 1,
                owner=f"memory:{os.getpid()}",
                started=self._clock() if run.started is None and start else run.started,
                crashes=run.crashes + (run.state is StateType.RUNNING and bool(run.owner)),
                state=run.state if stays else StateType.RUNNING,
                message=run.message if stays else "",
            )
            self._runs[run.number] = run
            self._begin_life(run, fingerprint, origin or "", self._clock())
        self._notify()
        return run

    def claim_runs(self, wanted: Sequence[RunClaim]) -> list[Run]:
        claimed: list[Run] = []
        for run_id, fingerprint, start in wanted:
            with suppress(RunNotFoundError, RunFinishedError, RunOwnedError):
                claimed.append(self.claim_run(run_id, fingerprint=fingerprint, start=start))
        return sorted(claimed, key=lambda run: run.number)

    def bind_run(
        self, number: int, epoch: int, parameters: bytes, *, name: str = "", on_cancellation: bool = False
    ) -> None:
        with self._lock:
            self._check_epoch(number, epoch)
            run = self._runs[number]
            self._runs[number] = replace(
                run, parameters=parameters, name=name or run.name, on_cancellation=on_cancellation
            )
        self._notify()

    def release_run(self, run: Run) -> None:
        with self._lock:
            now = self._runs[run.number]
            if now.epoch == run.epoch:
                if now.state is StateType.CANCELLING and self._is_over(now):
                    now = replace(now, state=StateType.CANCELLED, ended=self._clock())
                if now.state.is_final:
                    self._forget_run(run.number)
                self._runs[run.number] = replace(now, owner="")
                self._owned.discard(run.number)
                end = end_of(now.state) if now.state.is_final else LifeEnd.INTERRUPTED
                self._end_life(run.number, run.epoch, end)
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
        account: bytes | None = None,
    ) -> None:
        del durable
        with self._lock:
            run = self._runs.get(number)
            row = run and (run.state, run.epoch, run.message)
            over = release and self._is_undone(number)
            stored, why = rules.next_state(row, epoch, state, message, over=over)
            ended = self._clock() if stored.is_final else None
            before = self._runs[number]
            owner = "" if release and ended is None else before.owner
            started = before.started
            if started is None and stored in (StateType.RUNNING, StateType.FAILED):
                started = ended or self._clock()
            self._runs[number] = replace(
                before,
                state=stored,
                message=why,
                result=result,
                error=error,
                ended=ended,
                owner=owner,
                started=started,
            )
            if release:
                self._owned.discard(number)
            if stored.is_final:
                self._forget_run(number)
            if release or stored.is_final:
                self._end_life(number, epoch, end_of(stored), why, account)
        self._notify()

    def end_runs(self, ends: Sequence[RunEnd]) -> list[BaseException | None]:
        """See `agentflow.journal.protocol.EndsRunsTogether`."""
        refusals: list[BaseException | None] = []
        for number, epoch, state, message, result, error, account in ends:
            refusal = None
            try:
                self.set_state(
                    number, epoch, state, message=message, result=result, error=error, release=True, account=account
                )  # fmt: skip
            except (Unwinding, ValueError, JournalUnavailable) as refused:
                refusal = refused
            refusals.append(refusal)
        return refusals

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
            self._cancel(run, message)
            for child in self._below(run_id):
                if not child.state.is_final:
                    self._cancel(child, rules.with_parent(run_id, message))
            run = self._runs[run.number]
        self._notify()
        return run

    def _cancel(self, run: Run, message: str) -> None:
        over = run.number not in self._owned and self._is_over(run)
        state, why = rules.cancelled_state(run.state, run.message, message, over=over)
        ended = self._clock() if state.is_final else None
        self._runs[run.number] = replace(run, state=state, message=why, ended=ended)
        if state.is_final:
            self._forget_run(run.number)

    def _is_over(self, run: Run) -> bool:
        return rules.is_over(run, undone=self._is_undone(run.number))

    def _is_undone(self, number: int) -> bool:
        return rules.is_undone(row for row in self._steps.get(number, ()) if row.kind == "transaction")

    def _below(self, run_id: str) -> list[Run]:
        """All runs that this one has started, those that they have started, and so on."""
        found = [run for run in self._runs.values() if run.parent == run_id]
        return found + [below for run in found for below in self._below(run.id)]

    def get_run(self, run_id: str) -> Run | None:
        return self._run(run_id)

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        with self._lock:
            runs = sorted(self._runs.values(), key=lambda run: -run.number)
        return [
            run
            for run in runs
            if (not wanted.states or run.state in wanted.states)
            and (not wanted.flow or run.flow == wanted.flow)
            and (not wanted.parent or run.parent == wanted.parent)
            and (wanted.before is None or run.number < wanted.before)
            and run.id.endswith(wanted.id_end)
            and set(wanted.tags).issubset(run.tags)
            and (not wanted.deployment or run.deployment == wanted.deployment)
        ][: wanted.limit]

    def due_runs(
        self, now: float, *, after: int = 0, limit: int | None = None, without: Collection[str] = ()
    ) -> list[Run]:
        with self._lock:
            due = [
                run
                for run in self._runs.values()
                if run.number > after and run.flow not in without and self._is_due(run, now)
            ]
        return due[:limit]

    def _is_due(self, run: Run, now: float) -> bool:
        if run.state.is_final or run.state is StateType.SCHEDULED or run.number in self._owned:
            return False
        if (
            run.state is not StateType.PAUSED or run.owner
        ):  # died while it waited: other branches may have moved
            return True
        waits = [wait for wait in self._waits.values() if wait.run == run.number and wait.consumed is None]
        return any(wait.decided is not None or (wait.due is not None and wait.due <= now) for wait in waits)

    def is_owned(self, run: Run) -> bool:
        return run.number in self._owned
