"""Runs that PostgreSQL makes and ends in one statement each: exactly once, whatever becomes of the connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from agentflow.errors import Fenced
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.postgres.commits import Append
from agentflow.journal.protocol import RunFilter
from agentflow.model.lives import LifeEnd
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import StateType
from tests.journal.postgres_driver import row
from tests.journal.postgres_server import PostgresServer
from tests.journal.striking import KEY, Fault
from tests.journal.striking_postgres import StruckPostgres

pytestmark = pytest.mark.service


def new(number: int) -> NewRun:
    """What a call makes."""
    return NewRun(f"run-{number}", "job", "job.py:job", b"{}", "", Origin.PERSON, 1.0)


class Watched(StruckPostgres):
    """One that can be looked into."""

    @contextmanager
    def busy(self, waiting: int) -> Generator[None]:
        """The block, while a commit is under way; it ends when so many wait for it."""
        with self._committer.writing():
            yield
            while len(self._committer._waiting) < waiting:  # pyright: ignore[reportPrivateUsage]
                time.sleep(0)

    def transactions(self, rows: bytes) -> int:
        """In how many those were written."""
        asked = b"SELECT count(DISTINCT CAST(xmin AS TEXT)) FROM (" + rows + b") AS written"
        return int(self._reader.read(lambda db: db.value(asked)))


@pytest.fixture
def journal(postgres: PostgresServer) -> Iterator[Watched]:
    """One whose connection can be lost at a statement."""
    opened = Watched(postgres.url(), time.time)
    yield opened
    opened.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("state", [StateType.PENDING, StateType.RUNNING])
def test_a_run_is_made_once(journal: Watched, state: StateType, *, after: bool) -> None:
    """Whether the server has heard of it or not, when the connection is lost; and nobody makes it twice."""
    journal.plan.arm(Fault("WITH once", after))
    made = journal.create_run(new(1), state=state)
    assert journal.plan.fired
    assert journal.list_runs(RunFilter(9)) == [journal.get_run("run-1")] == [made]
    with pytest.raises(ValueError, match="holds this already"):
        journal.create_run(new(1), state=state)
    assert journal.create_run(new(2)).number == made.number + 1


@pytest.mark.parametrize("after", [False, True])
def test_a_run_ends_once(journal: Watched, *, after: bool) -> None:
    """Whether the server has heard of it or not; its life has ended with it."""
    run = journal.create_run(new(1))
    journal.plan.arm(Fault("WITH ended", after))
    journal.set_state(run.number, run.epoch, StateType.FAILED, message="no", error=b"1", release=True)
    assert journal.plan.fired
    ended = journal.get_run(run.id)
    assert ended is not None
    assert (ended.state, ended.message, ended.error) == (StateType.FAILED, "no", b"1")
    assert [life.end for life in journal.lives(run.number)] == [LifeEnd.FAILED]
    assert not journal.is_owned(run)


def test_what_others_have_said_of_a_run_is_looked_at(journal: Watched) -> None:
    """A run that was asked to stop, and one that somebody else has taken over, do not simply end."""
    asked, taken = journal.create_run(new(1)), journal.create_run(new(2))
    other = PostgresJournal(journal.address, KEY)
    other.request_cancel(asked.id, "enough")
    journal.set_state(asked.number, asked.epoch, StateType.COMPLETED, result=b"1", release=True)
    stopped = journal.get_run(asked.id)
    assert stopped is not None
    assert (stopped.state, stopped.result) == (StateType.COMPLETED, b"1")
    other.claim_run(taken.id, take_over=True)
    with pytest.raises(Fenced):
        journal.set_state(taken.number, taken.epoch, StateType.COMPLETED, release=True)
    other.close()


def together(journal: Watched, calls: Sequence[Callable[[], object]]) -> list[BaseException]:
    """Have threads do these while a commit is under way; what they raised."""
    refused: list[BaseException] = []

    def call(one: Callable[[], object]) -> None:
        try:
            one()
        except Fenced as error:
            refused.append(error)

    threads = [threading.Thread(target=call, args=(one,)) for one in calls]
    with journal.busy(len(threads)):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    return refused


def test_runs_that_end_together_share_a_commit(journal: Watched) -> None:
    """While one commit is under way the next ones gather; one of them that is refused takes nothing from the others."""
    runs = [journal.create_run(new(number)) for number in range(8)]
    epochs = [run.epoch + (run is runs[3]) for run in runs]
    end = partial(journal.set_state, state=StateType.COMPLETED, result=b"1", release=True)
    refused = together(
        journal, [partial(end, run.number, epoch) for run, epoch in zip(runs, epochs, strict=True)]
    )
    assert len(refused) == 1
    assert journal.transactions(b"SELECT xmin FROM run WHERE state = 'COMPLETED'") == 1
    states = [run.state for run in journal.list_runs(RunFilter(9))]
    assert states.count(StateType.COMPLETED) == len(runs) - 1


@pytest.mark.parametrize("durable", [False, True])
def test_rows_that_are_stored_together_share_a_commit(journal: Watched, *, durable: bool) -> None:
    """Several runs' rows in one statement; a stale owner's are refused, all of them, and nobody else's."""
    runs = [journal.create_run(new(number)) for number in range(8)]
    epochs = [run.epoch + (run is runs[3]) for run in runs]
    append = journal._committer.append  # pyright: ignore[reportPrivateUsage]
    requests = [
        Append(run.number, epoch, [row(run, 1), row(run, 2)], durable=durable)
        for run, epoch in zip(runs, epochs, strict=True)
    ]
    refused = together(journal, [partial(append, request) for request in requests])
    assert len(refused) == 1
    assert journal.transactions(b"SELECT xmin FROM step") == 1
    assert [len(journal.steps(run.number)) for run in runs] == [2, 2, 2, 0, 2, 2, 2, 2]
    journal.append(runs[0].number, runs[0].epoch, [row(runs[0], 3)], durable=durable)
    with pytest.raises(ValueError, match="holds this already"):
        journal.append(runs[0].number, runs[0].epoch, [row(runs[0], 3)], durable=True)
    with pytest.raises(Fenced):
        journal.append(runs[1].number, runs[1].epoch + 1, [row(runs[1], 3)], durable=True)
