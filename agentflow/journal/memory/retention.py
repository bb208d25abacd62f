"""Verbs of retention: payloads of runs that ended long ago are removed."""

from __future__ import annotations

from dataclasses import replace

from agentflow.journal import rules
from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.protocol.retention import Pruned


class MemoryRetention(MemoryBase):
    """See `agentflow.journal.protocol.retention.RetentionVerbs`."""

    def prune_runs(
        self, ended_before: float, *, after: int = 0, limit: int = 100, dry_run: bool = False
    ) -> Pruned:
        with self._lock:
            runs = [
                run
                for number, run in sorted(self._runs.items())
                if number > after
                and number not in self._pruned
                and run.ended is not None
                and run.ended < ended_before
            ][:limit]
            done = Pruned(last=runs[-1].number if len(runs) == limit else 0)
            for run in runs:
                values = [row.value for row in self._steps[run.number] if row.value is not None]
                own = [part for part in (run.parameters, run.result, run.error) if part is not None]
                sizes = [(len(values), sum(map(len, values))), (len(own), sum(map(len, own)))]
                done = rules.and_pruned(done, sizes, sum(line.run == run.number for line in self._logs))
                if not dry_run:
                    self._prune(run.number)
        return done

    def _prune(self, number: int) -> None:
        self._steps[number] = [row._replace(value=None) for row in self._steps[number]]
        self._runs[number] = replace(self._runs[number], parameters=rules.NOTHING, result=None, error=None)
        # a line's id is its place in the list
        self._logs = [line._replace(run=0, text="") if line.run == number else line for line in self._logs]
        self._events = [event for event in self._events if event.run != number]
        self._pruned[number] = self._clock()

    def pruned_at(self, number: int) -> float | None:
        return self._pruned.get(number)
