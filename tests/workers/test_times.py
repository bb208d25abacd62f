"""A run that has left memory goes on when its time comes, not at its worker's next look."""

from __future__ import annotations

import threading

import pytest

from agentflow import flow, sleep
from agentflow.flows import default_options
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import RunFilter
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.workers import inline
from agentflow.workers.inline import InlineWorker
from agentflow.workers.times import Times

PATIENCE = 60.0


class Hearing(MemoryJournal):
    """Tells of what others do, so that nobody need look often."""

    def hears(self) -> bool:
        return True


@flow
def napping() -> str:
    sleep(0.3).result()
    return "awake"


def test_a_run_goes_on_when_its_time_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens at that moment, and the worker would look again in an hour."""
    monkeypatch.setattr(inline, "_LOOK", 3600.0)
    journal, over = Hearing(), threading.Event()

    def look() -> None:
        runs = journal.list_runs(RunFilter())
        if runs and runs[0].state is StateType.COMPLETED:
            over.set()

    journal.subscribe(look)
    with InlineWorker(journal, {"napping": napping}, options=default_options(0.0)) as worker:
        run = worker.start_run("napping", {}, origin=Origin.PERSON)
        assert over.wait(PATIENCE)
    assert [life.end for life in journal.lives(run.number)] == ["suspended", "completed"]


def test_times_that_are_over_are_forgotten() -> None:
    """The next one counts, none is waited for longer than asked for, and one that is very near is no reason to spin."""
    now = [10.0]
    times = Times(lambda: now[0])
    assert times.until_next(1.0) == 1.0
    times.note([10.5, None, 12.0, 10.501])
    assert times.until_next(1.0) == 0.5
    now[0] = 10.5
    assert times.until_next(1.0) == 0.01
    now[0] = 10.6
    assert times.until_next(1.0) == 1.0
    now[0] = 12.0
    assert times.until_next(1.0) == 1.0
