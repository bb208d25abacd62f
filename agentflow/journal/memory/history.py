"""Verbs of history: lives, ended runs that go on, runs that begin as copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentflow.journal import rules
from agentflow.journal.memory.runs import MemoryRuns
from agentflow.journal.memory.steps import MemorySteps
from agentflow.model.lives import Fork, Life
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow


class MemoryHistory(MemoryRuns, MemorySteps):
    """See `agentflow.journal.protocol.history.HistoryVerbs`."""

    def lives(self, number: int) -> list[Life]:
        with self._lock:
            return list(self._lives.get(number, ()))

    def reopen_run(
        self, number: int, epoch: int, rows: Sequence[StepRow] = (), *, origin: Origin | None = None
    ) -> Run:
        with self._lock:
            run = rules.check_reopening(self._runs.get(number), epoch, owned=number in self._owned)
            rules.check_payloads(run, self._pruned.get(number))
            self._add_steps(number, rows)
            run = self._runs[number] = replace(
                run,
                state=StateType.PENDING,
                message="",
                ended=None,
                result=None,
                error=None,
                owner="",
                origins=rules.with_origins(run.origins, () if origin is None else (origin,)),
            )
        self._notify()
        return run

    def fork_run(self, new: NewRun, fork: Fork, rows: Sequence[StepRow], origins: Sequence[Origin]) -> Run:
        with self._lock:
            source = self._need_run(fork.source)
            if source.number in self._owned:
                raise rules.being_run(source)
            rules.check_payloads(source, self._pruned.get(source.number))
            run = self.create_run(new, state=StateType.PENDING)
            run = self._runs[run.number] = replace(run, origins=rules.with_origins(run.origins, origins))
            self._add_steps(run.number, rules.renumbered(rows, run.number))
            self._forks[run.number] = fork
        self._notify()
        return run

    def forked(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number in self._forks]

    def fork_of(self, number: int) -> Fork | None:
        return self._forks.get(number)
