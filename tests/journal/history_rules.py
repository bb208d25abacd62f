"""The part of the random programs that has ended runs go on and copies runs."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from agentflow.journal.protocol import Journal
from agentflow.model.lives import Fork
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.steps import StepRow
from tests.journal.cache_rules import CacheRules, faults, small, stores
from tests.journal.oracle import Failure, Oracle
from tests.journal.striking import Fault

ages = st.sampled_from([0, 0, 0, 0, -1, 1])
repeats = st.sampled_from([False, False, False, True])
origins = st.none() | st.sampled_from(sorted(Origin))


class HistoryRules(CacheRules):
    """Both stores do the same with what has ended."""

    oracle: Oracle
    ids: list[str]

    def new_row(self, run: Run, *, again: bool = False) -> StepRow:
        raise NotImplementedError

    @rule(
        which=stores,
        index=small,
        age=ages,
        count=st.integers(0, 2),
        origin=origins,
        fault=faults,
        repeat=repeats,
    )
    def go_on(
        self,
        which: int,
        index: int,
        age: int,
        count: int,
        origin: Origin | None,
        fault: Fault | None,
        repeat: bool,
    ) -> None:
        run = self.run_of(index)
        rows = [self.new_row(run) for _ in range(count)]

        def call(journal: Journal) -> Run:
            return journal.reopen_run(run.number, run.epoch + age, rows, origin=origin)

        said = self.both(which, fault, call)
        if repeat and isinstance(said, dict):
            assert isinstance(self.both(which, None, call), Failure)

    @rule(which=stores, index=st.integers(0, 4), fault=faults)
    def copy(self, which: int, index: int, fault: Fault | None) -> None:
        source = self.run_of(index)
        new = NewRun(f"copy-{len(self.ids)}", "a", "f.py:f", b"{}", "fp", Origin.PERSON, self.now)
        fork = Fork(source.id if index < 4 else "nobody", "00", "step", 2, changed=False, happened=b"[]")
        rows = self.oracle.steps(source.number)[:2]
        self.both(which, fault, lambda journal: journal.fork_run(new, fork, rows, source.origins))
        if self.oracle.get_run(new.id) is not None:
            self.ids.append(new.id)
