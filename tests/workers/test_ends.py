"""Ends of runs of a worker that are recorded together: none too late, none lost, none for another one's sake."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.engine.ends import Ends
from agentflow.errors import Fenced, JournalUnavailable
from agentflow.flows import Flow, default_options
from agentflow.journal.protocol import RunEnd, RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.lives import LifeEnd
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.workers.test_room import until

PATIENCE = 60.0
MANY = 300
KEY = b"k" * 32


class Ending(SqliteJournal):
    """Says how many ends were recorded at once, and may refuse some."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, KEY)
        self.batches: list[int] = []
        self.refused = 0
        self.taken: set[int] = set()

    def end_runs(self, ends: Sequence[RunEnd]) -> list[BaseException | None]:
        self.batches.append(len(ends))
        if self.refused:
            self.refused -= 1
            for end in ends:
                self._ownership.release(end.number, end.epoch)
            return [JournalUnavailable("the disk is full")] * len(ends)
        ends = [end._replace(epoch=end.epoch - (end.number in self.taken)) for end in ends]
        return super().end_runs(ends)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    made = Ending(tmp_path / "j.db")
    yield made
    made.close()


ran: list[int] = []
gate = threading.Event()
told: list[str] = []


@task
def noted(number: int) -> int:
    ran.append(number)
    return number


@flow
def short(number: int) -> int:
    if number < 0:
        message = "below zero"
        raise ValueError(message)
    return noted(number)


@flow
def gated() -> str:
    gate.wait(PATIENCE)
    return "passed"


@flow(on_completion=[lambda _flow, run, _state: told.append(run.id)])
def hooked(number: int) -> int:
    return noted(number)


@pytest.fixture(autouse=True)
def _anew() -> None:
    ran.clear()
    told.clear()
    gate.clear()


def worker_on(journal: Ending, places: int = 64) -> InlineWorker:
    options = replace(default_options(60.0), settings=replace(Settings.from_environment(), max_runs=places))
    return InlineWorker(journal, {made.name: made for made in (short, gated, hooked)}, options=options)


def asked_for(worker: InlineWorker, which: Flow[..., Any], *arguments: int) -> list[Run]:
    """PENDING runs, one for each argument."""
    news = [worker.new_run(which, {"number": number}, Origin.PERSON) for number in arguments]
    return [worker.journal.create_run(new, state=StateType.PENDING) for new in news]


def count(journal: Ending, state: StateType) -> int:
    return len(journal.list_runs(RunFilter(2 * MANY, (state,))))


def test_ends_wait_for_those_that_are_about_to_come(journal: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    """While more come they wait, the last one has all recorded in one commit, and each hears of it."""
    monkeypatch.setattr("agentflow.engine.ends._MOMENT", 3600.0)
    made = worker_on(journal)
    runs = [journal.create_run(made.new_run(short, {"number": number}, Origin.PERSON)) for number in range(5)]
    more, heard = [True] * 4 + [False], list[BaseException | None]()
    ends = Ends(journal, lambda: more.pop(0))
    for run in runs:
        assert heard == []
        ends.add(RunEnd(run.number, run.epoch, StateType.COMPLETED), heard.append)
    assert journal.batches == [5]
    assert heard == [None] * 5
    assert count(journal, StateType.COMPLETED) == 5


def test_many_runs_end_together(journal: Ending) -> None:
    """Completed or failed: each says how, and is free."""
    worker = worker_on(journal)
    runs = asked_for(worker, short, *range(MANY), -1)
    with worker:
        until(
            journal,
            lambda: count(journal, StateType.COMPLETED) == MANY and count(journal, StateType.FAILED) == 1,
        )
    assert sum(journal.batches) == MANY + 1
    assert sorted(ran) == list(range(MANY))
    failed = journal.get_run(runs[-1].id)
    assert failed is not None
    assert "below zero" in failed.message
    assert not any(journal.is_owned(run) for run in runs)
    assert journal.lives(failed.number)[-1].end is LifeEnd.FAILED


def test_one_end_waits_for_no_other(journal: Ending) -> None:
    """Where no life waits for a thread, nothing is waited for; and a run that takes long holds up no end."""
    with worker_on(journal) as worker:
        long = worker.start_run("gated", {}, origin=Origin.PERSON)
        for number in range(5):
            run = worker.start_run("short", {"number": number}, origin=Origin.PERSON)
            assert worker.await_run(run.id, PATIENCE).state is StateType.COMPLETED
        assert journal.batches == [1] * 5
        gate.set()
        assert worker.await_run(long.id, PATIENCE).state is StateType.COMPLETED


def test_the_last_one_of_many_that_takes_long_holds_up_no_end(journal: Ending) -> None:
    """It has the only thread there is, while the ends before it wait: somebody else records them."""
    worker = worker_on(journal)
    asked_for(worker, short, *range(8))
    journal.create_run(worker.new_run(gated, {}, Origin.PERSON), state=StateType.PENDING)
    with worker:
        until(journal, lambda: count(journal, StateType.COMPLETED) == 8)
        assert count(journal, StateType.RUNNING) == 1
        gate.set()


def test_an_end_that_could_not_be_written_is_written_by_a_later_life(journal: Ending) -> None:
    """The disk was full for a while: all goes on, and no step runs again."""
    worker = worker_on(journal)
    asked_for(worker, short, *range(MANY))
    journal.refused = 3
    with worker:
        until(journal, lambda: count(journal, StateType.COMPLETED) == MANY)
    assert sorted(ran) == list(range(MANY))


def test_a_run_that_was_taken_over_refuses_only_its_own_end(journal: Ending) -> None:
    """The others of its commit have ended."""
    worker = worker_on(journal)
    runs = asked_for(worker, short, *range(20))
    lost = runs[7]
    journal.taken = {lost.number}
    with worker:
        until(journal, lambda: count(journal, StateType.COMPLETED) == len(runs) - 1)
    known = journal.get_run(lost.id)
    assert known is not None
    assert known.state is StateType.RUNNING
    (refusal,) = journal.end_runs([RunEnd(lost.number, known.epoch, StateType.COMPLETED)])
    assert isinstance(refusal, Fenced)


def test_hooks_run_after_the_end_in_the_threads_of_their_runs(journal: Ending) -> None:
    """A flow that has hooks records its end by itself: they may take long."""
    worker = worker_on(journal)
    runs = asked_for(worker, hooked, *range(20))
    with worker:
        until(journal, lambda: len(told) == len(runs))
    assert sorted(told) == sorted(run.id for run in runs)
    assert journal.batches == []
