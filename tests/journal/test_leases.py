"""Ownership by lease: who is killed, frozen or cut off owns nothing after a lease; what it writes then is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest

from agentflow.errors import Fenced, RunOwnedError
from agentflow.journal.postgres import PostgresJournal
from agentflow.model.limits import Claim, Grant, Limit
from agentflow.model.lives import LifeEnd
from agentflow.model.states import StateType
from tests.faults import Measured
from tests.journal.postgres_driver import KEY, new, row
from tests.journal.postgres_server import PostgresServer

pytestmark = pytest.mark.service
LEASE = 0.6
ROOT = Path(__file__).parents[2]


class Process:
    """A process with a journal."""

    def __init__(self, url: str, lease: float = LEASE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.journal.postgres_driver", url, str(lease)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, word: str) -> Any:
        self.tell(word)
        return self.hear()

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """An empty schema."""
    return postgres.url()


@pytest.fixture
def process(url: str) -> Iterator[Callable[[], Process]]:
    """Starts processes on it."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(url))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def journal(url: str) -> Iterator[PostgresJournal]:
    """A journal of this process on it."""
    made = PostgresJournal(url, KEY, lease=LEASE)
    yield made
    made.close()


def until(look: Callable[[], bool]) -> None:
    """Look again and again; the test's own timeout ends it."""
    while not look():
        pass


@pytest.mark.fault(9, "worker killed, or frozen past its lease")
def test_a_killed_process_owns_nothing_after_a_lease(
    process: Callable[[], Process], journal: PostgresJournal, fault: Measured
) -> None:
    """Until then its run is owned; then it is due, and whoever claims it counts a crash."""
    owner = process()
    assert owner.ask("create") == 1
    run = journal.get_run("run")
    assert run is not None
    owner.end()
    with pytest.raises(RunOwnedError):
        journal.claim_run("run")
    assert journal.due_runs(9.0) == []
    until(lambda: journal.due_runs(9.0) != [])
    assert not journal.is_owned(run)
    claimed = journal.claim_run("run")
    fault(1, lost=int(claimed.epoch != 2))
    assert (claimed.epoch, claimed.crashes) == (2, 1)
    assert [life.end for life in journal.lives(run.number)] == [LifeEnd.CRASHED, LifeEnd.RUNNING]


def test_a_living_process_keeps_its_runs(process: Callable[[], Process], url: str) -> None:
    """Its keeper renews the lease, however many have come to an end since."""
    owner = process()
    owner.ask("create")
    with psycopg.connect(url.partition("?")[0]) as db:
        db.execute(b"SELECT set_config('search_path', %s, false)", (url.partition("schema=")[2],))
        db.commit()

        def expires() -> float:
            found = db.execute(b"SELECT expires FROM keeper").fetchone()
            db.commit()
            assert found is not None
            return found[0]

        first = expires()
        until(lambda: expires() > first + 2 * LEASE)
    assert owner.ask("owned") is True
    assert owner.ask("write") == "written"


@pytest.mark.fault(9, "worker killed, or frozen past its lease")
def test_a_frozen_process_is_refused_when_it_goes_on(
    process: Callable[[], Process], journal: PostgresJournal, fault: Measured
) -> None:
    """Another one has claimed its run meanwhile."""
    owner, other = process(), process()
    owner.ask("create")
    owner.signal(signal.SIGSTOP)
    until(lambda: journal.due_runs(9.0) != [])
    assert other.ask("claim") == 2
    assert other.ask("write") == "written"
    owner.signal(signal.SIGCONT)
    late = owner.ask("write")
    assert other.ask("write") == "written"
    fault(1, lost=2 - len(journal.steps(1)), doubled=int(late != "Fenced"))
    assert late == "Fenced"
    assert owner.ask("claim") == "RunOwnedError"


def test_what_was_done_because_a_process_seemed_dead_holds_when_it_goes_on(
    process: Callable[[], Process], journal: PostgresJournal
) -> None:
    """Its run was cancelled at once, as nobody ran it: nothing is added to it any more. It can own others."""
    owner = process()
    owner.ask("create")
    owner.ask("write")
    owner.signal(signal.SIGSTOP)
    until(lambda: journal.due_runs(9.0) != [])
    assert journal.request_cancel("run", "enough").state is StateType.CANCELLED
    owner.signal(signal.SIGCONT)
    assert owner.ask("write") == "Fenced"
    assert len(journal.steps(1)) == 1


def test_a_process_that_slept_goes_on_where_nobody_has_noticed(
    process: Callable[[], Process], journal: PostgresJournal
) -> None:
    """A laptop that was closed for a night, and nobody else at work: its runs are still its own."""
    owner = process()
    owner.ask("create")
    owner.signal(signal.SIGSTOP)
    until(lambda: journal.due_runs(9.0) != [])
    owner.signal(signal.SIGCONT)
    assert owner.ask("claim") == "RunOwnedError"  # it does not take itself for dead
    assert owner.ask("write") == "written"
    until(lambda: journal.due_runs(9.0) == [])
    assert owner.ask("write") == "written"


def test_a_closed_journal_leaves_its_runs_at_once(
    process: Callable[[], Process], journal: PostgresJournal
) -> None:
    """Nobody has to wait for a lease."""
    owner = process()
    owner.ask("create")
    owner.ask("close")
    assert [run.id for run in journal.due_runs(9.0)] == ["run"]
    assert journal.claim_run("run").epoch == 2


@pytest.mark.fault(8, "two processes claim one run")
def test_of_many_processes_that_claim_a_run_one_gets_it(
    process: Callable[[], Process], journal: PostgresJournal, fault: Measured
) -> None:
    """All at once, every time."""
    everybody = [process() for _ in range(4)]
    everybody[0].ask("offer")
    for one in everybody:
        one.ask("due")
    for one in everybody:
        one.tell("claim")
    heard = sorted(str(one.hear()) for one in everybody)
    fault(4, lost=int("1" not in heard), doubled=3 - heard.count("RunOwnedError"))
    assert heard == ["1", *["RunOwnedError"] * 3]
    run = journal.get_run("run")
    assert run is not None
    assert run.epoch == 1


def test_claims_in_many_threads_and_journals_are_never_shared(url: str) -> None:
    """A hundred runs, claimed by four journals at once: each run has one owner and one life."""
    journals = [PostgresJournal(url, KEY) for _ in range(4)]
    runs = [journals[0].create_run(new(f"run-{number}"), state=StateType.PENDING) for number in range(100)]
    start, claimed = Barrier(4), [list[str]() for _ in journals]

    def claim(index: int) -> None:
        start.wait()
        for run in runs:
            try:
                journals[index].claim_run(run.id)
            except RunOwnedError:
                continue
            claimed[index].append(run.id)

    threads = [Thread(target=claim, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [run_id for mine in claimed for run_id in mine]
    assert sorted(everything) == sorted(run.id for run in runs)
    assert {len(journals[0].lives(run.number)) for run in runs} == {1}
    for journal in journals:
        journal.close()


def test_a_dead_process_holds_no_slot(process: Callable[[], Process], journal: PostgresJournal) -> None:
    """What its runs held is free after a lease."""
    journal.set_limit(Limit("db", 1))
    owner = process()
    owner.ask("create")
    claim = Claim("a", ("db",), run=1, epoch=1, run_id="run", keeper="theirs")
    assert journal.claim_slots(claim) is Grant.HELD
    assert journal.claim_slots(Claim("b", ("db",), keeper="mine")) is Grant.WAITING
    owner.end()
    until(lambda: journal.granted_claims("mine") == ["b"])


def test_a_stale_owner_is_refused_also_where_it_writes_many_rows(url: str) -> None:
    """And whoever shares its commit is not."""
    first, second = PostgresJournal(url, KEY), PostgresJournal(url, KEY)
    old = first.create_run(new("old"))
    second.claim_run("old", take_over=True)
    with pytest.raises(Fenced):
        first.append(old.number, old.epoch, [row(old, 1), row(old, 2)], durable=True)
    assert first.steps(old.number) == []
    first.close()
    second.close()
