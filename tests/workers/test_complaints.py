"""What a worker says of what it cannot do: each reason once, and when it is over."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from agentflow import flow, task
from agentflow.errors import JournalUnavailable, RunOwnedError
from agentflow.flows import default_options
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.workers.inline import InlineWorker
from tests.fundamentals.lives import Death, die, resume

PATIENCE = 60.0


class Refusing(MemoryJournal):
    """Refuses to say what is due, for as many looks as there are reasons."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__()
        self.reasons = reasons

    def due_runs(self, *given: Any, **options: Any) -> Any:
        if self.reasons:
            raise JournalUnavailable(self.reasons.pop(0))
        return super().due_runs(*given, **options)


def test_the_same_complaint_is_made_once() -> None:
    """However often the worker looks; another reason is told, and that it works again."""
    journal, said, all_said = Refusing(["revoked"] * 5 + ["away"] * 5), list[str](), threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        if "again" in line:
            all_said.set()

    with InlineWorker(journal, {}, options=default_options(0.0), on_error=hear):
        assert all_said.wait(PATIENCE)
    assert said == [
        "cannot look for runs to recover: revoked",
        "cannot look for runs to recover: away",
        "looks for runs to recover again",
    ]


@task
def first() -> int:
    return 1


@flow
def begun() -> int:
    if first() and MORTAL[0]:
        raise Death
    return 2


MORTAL = [True]


def over(journal: SqliteJournal, run_id: str) -> bool:
    run = journal.get_run(run_id)
    return run is not None and run.state.is_final


class Slower(InlineWorker):
    """Somebody else owns each run when this worker wants it first."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tried = set[str]()

    def live(self, flow: Any, run_id: str) -> bool | None:
        if run_id not in self.tried:
            self.tried.add(run_id)
            self.give_back(run_id)
            raise RunOwnedError(run_id, "somebody")
        return super().live(flow, run_id)


def test_a_run_that_somebody_else_was_faster_with_is_looked_at_again(tmp_path: Path) -> None:
    """Nothing is said of it, and it goes on here once nobody owns it."""
    journal, said = SqliteJournal(tmp_path / "j.db", b"a" * 32), list[str]()
    MORTAL[0] = False
    with Slower(journal, {"begun": begun}, options=default_options(0.0), on_error=said.append) as worker:
        run = worker.start_run("begun", {}, origin=Origin.PERSON)
        assert worker.await_run(run.id, PATIENCE).state is StateType.COMPLETED
    assert (worker.tried, said) == ({run.id}, [])
    journal.close()


def test_a_run_that_was_begun_under_another_key_is_left_alone(tmp_path: Path) -> None:
    """It is told once what is missing; who has the key goes on with the run."""
    ours, theirs = (SqliteJournal(tmp_path / "j.db", key * 32) for key in (b"a", b"b"))
    MORTAL[0] = True
    run_id = die(begun, journal=ours)
    MORTAL[0] = False
    said, told = list[str](), threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        told.set()

    using = default_options(0.0)
    with InlineWorker(theirs, {"begun": begun}, options=using, on_error=hear):
        assert told.wait(PATIENCE)
        later = theirs.create_run(begun.new_run({}, theirs, using, Origin.PERSON), state=StateType.PENDING)
        deadline = time.monotonic() + PATIENCE
        while not over(theirs, later.id):  # it has looked at both since
            assert time.monotonic() < deadline
    assert len(ours.lives(1)) == 2
    (line,) = said
    assert (run_id in line, "copy the file `key`" in line) == (True, True)
    assert resume(begun, run_id, ours).tally.reused == 1
    for journal in (ours, theirs):
        journal.close()
