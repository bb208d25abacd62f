"""What ends a process is no outcome of a run."""

from __future__ import annotations

import pytest

from agentflow import flow, task
from agentflow.model.states import StateType
from tests.fundamentals.lives import memory, start


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_interrupts_the_process_interrupts_the_run(kind: type[BaseException]) -> None:
    """It is re-raised, never retried, and the run is given back to be resumed."""
    calls: list[int] = []

    @task(retries=3)
    def interrupted() -> int:
        calls.append(1)
        raise kind

    @flow
    def run() -> int:
        return interrupted()

    journal = memory()
    with pytest.raises(kind):
        start(run, journal=journal)
    assert calls == [1]
    (due,) = journal.due_runs(0.0)
    assert due.state is StateType.RUNNING
