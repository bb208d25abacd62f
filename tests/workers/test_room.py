"""How many runs a worker executes at once: as many as it may, whatever waits outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentflow import flow, wait_for_event
from agentflow.flows import default_options
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker

PATIENCE = 60.0
ROOM = 3
crowd: set[int] = set()
most: list[int] = []
counting = threading.Lock()


@flow
def crowded(number: int) -> int:
    with counting:
        crowd.add(number)
        most.append(len(crowd))
    threading.Event().wait(0.001)
    with counting:
        crowd.discard(number)
    return number


@flow
def patient() -> str:
    return str(wait_for_event("bell").result())


gate = threading.Event()


@flow
def gated() -> str:
    gate.wait(PATIENCE)
    return "passed"


def worker_on(journal: Journal) -> InlineWorker:
    """A worker with little room, in which waiting runs stay in memory for long."""
    settings = replace(Settings.from_environment(), max_runs=ROOM)
    options = replace(default_options(3600.0), settings=settings)
    return InlineWorker(journal, {"crowded": crowded, "patient": patient, "gated": gated}, options=options)


def until(journal: Journal, is_so: Callable[[], bool]) -> None:
    """Return once it is so, looking whenever the journal has changed."""
    changed = threading.Event()
    undo = journal.subscribe(changed.set)
    while not is_so():
        assert changed.wait(PATIENCE)
        changed.clear()
    undo()


@pytest.mark.parametrize("count", [20, 500])
def test_runs_wait_for_room_in_their_order(count: int) -> None:
    """Of many that are asked for at once a few run at a time, and all of them end."""
    journal = MemoryJournal()
    most.clear()
    with worker_on(journal) as worker:
        for number in range(count):
            worker.start_run("crowded", {"number": number}, origin=Origin.PERSON)
        until(journal, lambda: len(journal.list_runs(RunFilter(count, (StateType.COMPLETED,)))) == count)
    assert 1 < max(most) <= ROOM


def test_runs_that_only_wait_leave_their_room_to_others() -> None:
    """However long they might stay in memory: more of them wait than there is room for, and others run meanwhile."""
    journal = MemoryJournal()
    with worker_on(journal) as worker:
        waiting = [worker.start_run("patient", {}, origin=Origin.PERSON) for _ in range(3 * ROOM)]
        paused = RunFilter(states=(StateType.PAUSED,))
        until(journal, lambda: len(journal.list_runs(paused)) == len(waiting))
        other = worker.start_run("crowded", {"number": 1}, origin=Origin.PERSON)
        assert worker.await_run(other.id, PATIENCE).state is StateType.COMPLETED
        for run in waiting:
            journal.send_event(run.id, "bell", b'"rang"', 0.0)
        worker.interrupt()
        for run in waiting:
            assert worker.await_run(run.id, PATIENCE, until_asked=False).state is StateType.COMPLETED


def test_a_worker_owns_no_more_than_it_runs(tmp_path: Path) -> None:
    """However many are due: the others stay free, for a worker that idles; and for whoever comes after a crash."""
    gate.clear()
    journals = [SqliteJournal(tmp_path / "j.db", b"k" * 32) for _ in range(2)]
    due = 2 * ROOM + 1
    with worker_on(journals[0]) as asked:
        asked.drain()  # so that it takes none of them now
        runs = [asked.start_run("gated", {}, origin=Origin.PERSON) for _ in range(due)]
    first, second = map(worker_on, journals)
    assert (len(first.recover()), len(first.recover()), len(journals[1].due_runs(0.0))) == (
        ROOM,
        0,
        due - ROOM,
    )
    assert (len(second.recover()), len(second.recover()), len(journals[0].due_runs(0.0))) == (ROOM, 0, 1)
    first.hurry()
    first.stop()  # what it had begun is free at once
    assert len(journals[1].due_runs(0.0)) == due - ROOM
    gate.set()
    with second:
        until(journals[1], lambda: not journals[1].due_runs(0.0))
        for run in runs:
            assert second.await_run(run.id, PATIENCE).state is StateType.COMPLETED
    for journal in journals:
        journal.close()
