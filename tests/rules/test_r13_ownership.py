"""R13: one live process owns a run; the moment it dies the run is free; a stale owner's writes are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentflow.errors import (
    Fenced,
    OtherKeyError,
    ParameterError,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
)
from agentflow.flows import flow
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from tests.fundamentals.lives import options, start
from tests.rules.owner import KEY, owned

ROOT = Path(__file__).parents[2]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal(tmp_path / "j.db", KEY)
    yield made
    made.close()


@contextmanager
def owner(folder: Path) -> Generator[subprocess.Popen[str], None, None]:
    """Another process, in the middle of a run that it owns."""
    command = [sys.executable, "-m", "tests.rules.owner", str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def only_run(journal: SqliteJournal) -> str:
    return journal.list_runs(RunFilter(limit=1))[0].id


def test_a_killed_owner_frees_its_run_at_once(tmp_path: Path, journal: SqliteJournal) -> None:
    """While it lives, others are refused and told who it is; after `kill -9` the next claim succeeds."""
    with owner(tmp_path) as process:
        run_id = only_run(journal)
        with pytest.raises(RunOwnedError) as caught:
            owned.resume(run_id, journal=journal, options=options())
        assert f":{process.pid}, which is alive" in str(caught.value)
        assert journal.due_runs(0.0) == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert [run.id for run in journal.due_runs(0.0)] == [run_id]
        outcome = owned.resume(run_id, journal=journal, options=options())
    assert (outcome.state, outcome.value, outcome.tally.reused) == (StateType.COMPLETED, [1, 2], 1)
    finished = journal.get_run(run_id)
    assert finished is not None
    assert (finished.epoch, finished.crashes) == (2, 1)


def test_a_live_owner_can_be_taken_over_and_is_fenced(tmp_path: Path, journal: SqliteJournal) -> None:
    """The one who takes over says so; the other one's next write is refused, and it ends without a word."""
    with owner(tmp_path) as process:
        run_id = only_run(journal)
        outcome = owned.resume(run_id, journal=journal, options=options(), take_over=True)
        assert outcome.value == [1, 2]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) != 0
    finished = journal.get_run(run_id)
    assert finished is not None
    assert finished.state is StateType.COMPLETED
    assert [row.name for row in journal.steps(finished.number)] == ["first", "second"]


def test_a_process_with_another_key_does_not_run_everything_again(
    tmp_path: Path, journal: SqliteJournal
) -> None:
    """It would find none of the steps: it is refused and told what is missing; who has the key goes on."""
    with owner(tmp_path):
        run_id = only_run(journal)
    other = SqliteJournal(tmp_path / "j.db", b"other key".ljust(32))
    for _ in range(2):
        with pytest.raises(OtherKeyError, match="copy the file `key`"):
            owned.resume(run_id, journal=other, options=options())
    other.close()
    outcome = owned.resume(run_id, journal=journal, options=options())
    assert (outcome.value, outcome.tally.reused) == ([1, 2], 1)


def test_a_run_that_was_begun_by_nobody_goes_by_the_key_of_who_runs_it(tmp_path: Path) -> None:
    """Who asked for it may have another one."""
    asking = SqliteJournal(tmp_path / "j.db", b"other key".ljust(32))
    run_id = pending(asking)
    asking.close()
    executing = SqliteJournal(tmp_path / "j.db", KEY)
    assert owned.resume(run_id, journal=executing, options=options()).state is StateType.COMPLETED
    executing.close()


def test_the_claims_of_one_process_exclude_each_other_too(journal: SqliteJournal) -> None:
    """Two workers in one process do not run the same run."""
    run_id = pending(journal)
    active, _ = owned.claim(run_id, journal=journal, options=options())
    with pytest.raises(RunOwnedError):
        owned.claim(run_id, journal=journal, options=options())
    later, _ = owned.claim(run_id, journal=journal, options=options(), take_over=True)
    assert later.epoch == active.epoch + 1
    with pytest.raises(Fenced):
        journal.set_state(active.number, active.epoch, StateType.COMPLETED)


def pending(journal: SqliteJournal) -> str:
    """A run of `owned` that nobody has started."""
    new = owned.new_run({}, journal, options(), Origin.PERSON)
    return journal.create_run(new, state=StateType.PENDING).id


def test_what_cannot_be_resumed_says_why(journal: SqliteJournal) -> None:
    """Unknown, finished, another flow's."""

    @flow
    def other() -> int:
        return 1

    run_id = start(other, journal=journal).run_id
    with pytest.raises(RunNotFoundError, match="no run 'x'"):
        other.resume("x", journal=journal, options=options())
    with pytest.raises(RunFinishedError, match="COMPLETED"):
        other.resume(run_id, journal=journal, options=options())
    with pytest.raises(ParameterError, match="is one of owned, not of other"):
        other.resume(pending(journal), journal=journal, options=options())
