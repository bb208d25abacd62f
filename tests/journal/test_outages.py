"""A PostgreSQL server that stops, crashes and comes back under load: nothing acknowledged is lost, nothing is twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from agentflow.errors import JournalOpenError, JournalUnavailable
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol.admin import TableRow
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind
from tests.faults import Measured
from tests.journal.postgres_driver import KEY, new, row
from tests.journal.postgres_server import PostgresServer, running_server

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]
LEASE = 2.0
#: Seconds after which all writers have written again to a server that is back.
RECONNECTED = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that these tests may stop; it puts to disk what it says that it has."""
    with running_server() as running:
        yield running


class Load:
    """Threads that write without a pause, each into a run of its own, and remember what was acknowledged."""

    def __init__(self, journal: PostgresJournal, threads: int) -> None:
        self.journal = journal
        self.runs = [journal.create_run(new(f"run-{number}")) for number in range(threads)]
        self.acknowledged: list[set[int]] = [set() for _ in range(threads)]
        self.errors: list[BaseException] = []
        self.states = 0
        #: Acknowledged rows that are not there, and rows that are there twice; known at the end.
        self.lost = self.doubled = 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(index,), daemon=True) for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, index: int) -> None:
        run, sequence = self.runs[index], 0
        try:
            while not self._over.is_set():
                sequence += 1
                self._step(run, index, sequence)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _step(self, run: Run, index: int, sequence: int) -> None:
        written = row(run, sequence)
        if sequence % 20 == 0:
            self.journal.append(run.number, run.epoch, [written], durable=True)
        elif sequence % 7 == 0:
            if not self.journal.try_append(run.number, run.epoch, [written]):
                self.journal.append(run.number, run.epoch, [written])
        else:
            self.journal.append(run.number, run.epoch, [written])
        self.acknowledged[index].add(written.id)
        if sequence % 50 == 0:
            wait = Wait(
                id=f"wait-{index}-{sequence}", run=run.number, run_id=run.id, flow="f", step="", kind=WaitKind.INPUT,
                name="n", question={}, schema={}, digest="", policy="", opened=1.0, due=None,
            )  # fmt: skip
            self.journal.open_wait(run.epoch, wait)
            self.journal.decide(wait.id, Decision(Verdict.ANSWERED, sequence), now=2.0)
            self.states += 1

    def progress(self, rows: int) -> None:
        """Until every thread has written so many more."""
        targets = [len(mine) + rows for mine in self.acknowledged]
        while not self.errors and any(
            len(mine) < target for mine, target in zip(self.acknowledged, targets, strict=True)
        ):
            self._over.wait(0.01)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []
        for run, mine in zip(self.runs, self.acknowledged, strict=True):
            stored = [found.id for found in self.journal.steps(run.number)]
            assert sorted(stored) == stored
            self.lost += len(mine - set(stored))
            self.doubled += len(stored) - len(set(stored))
            answered = self.journal.list_waits(number=run.number, open_only=False)
            assert all(wait.decision is not None for wait in answered)
        assert (self.lost, self.doubled) == (0, 0)


@pytest.mark.fault(5, "PostgreSQL restarted under load")
@pytest.mark.parametrize(
    ("mode", "restarts"),
    [
        ("fast", 3),
        ("immediate", 3),
        pytest.param("fast", 20, marks=pytest.mark.nightly),
        pytest.param("immediate", 20, marks=pytest.mark.nightly),
    ],
)
def test_a_server_that_restarts_again_and_again_under_load(
    server: PostgresServer, mode: str, restarts: int, fault: Measured
) -> None:
    """Writers see nothing of it. "immediate" is a crash: also what was not on the server's disk is written again."""
    journal = PostgresJournal(server.url(), KEY)
    load = Load(journal, 4)
    worst = 0.0
    for _ in range(restarts):
        load.progress(30)
        server.stop(mode)
        server.start()
        up = time.monotonic()
        load.progress(1)
        worst = max(worst, time.monotonic() - up)
    load.progress(30)
    load.end()
    written = sum(map(len, load.acknowledged))
    print(
        f"{mode}: {written} rows and {load.states} answers acknowledged over {restarts} restarts, "
        f"all writers back after {worst:.1f} s at worst"
    )
    fault(restarts, lost=load.lost, doubled=load.doubled)
    assert worst < RECONNECTED
    journal.close()


def test_a_crash_takes_nothing_from_a_process_that_lives_on() -> None:
    """Rows that the server had acknowledged and not yet written to its disk are written again."""
    with running_server(wal_writer_delay="10s") as server:
        journal = PostgresJournal(server.url(), KEY)
        run = journal.create_run(new("run"))
        for sequence in range(1, 51):
            journal.append(run.number, run.epoch, [row(run, sequence)])
        server.stop("immediate")
        server.start()
        assert len(journal.steps(run.number)) < 50
        journal.append(run.number, run.epoch, [row(run, 51)])
        assert [found.id & 0xFF for found in journal.steps(run.number)] == list(range(1, 52))
        journal.close()


def test_runs_outlive_an_outage_that_is_longer_than_a_lease(server: PostgresServer) -> None:
    """Nobody could renew a lease meanwhile: each has its whole length again once the server is back."""
    url = server.url()
    journal, onlooker = PostgresJournal(url, KEY, lease=LEASE), PostgresJournal(url, KEY)
    run = journal.create_run(new("run"))
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url.partition("?")[0])
    down = time.monotonic()
    while time.monotonic() < down + LEASE:
        assert not journal.try_append(run.number, run.epoch, [row(run, 1)])
    server.start()
    assert onlooker.is_owned(run)
    assert onlooker.due_runs(9.0) == []
    journal.append(run.number, run.epoch, [row(run, 1)])
    journal.set_state(run.number, run.epoch, StateType.COMPLETED, release=True)
    journal.close()
    onlooker.close()


def test_a_server_that_stays_away_stops_the_run(server: PostgresServer) -> None:
    """After a bounded time, with what to do; once it is back, the same journal goes on, with every row once."""
    journal = PostgresJournal(server.url(), KEY, patience=0.3)
    run = journal.create_run(new("run"))
    server.stop()
    assert not journal.try_append(run.number, run.epoch, [row(run, 1)])
    for attempt in (
        lambda: journal.append(run.number, run.epoch, [row(run, 1)]),
        lambda: journal.set_state(run.number, run.epoch, StateType.PAUSED),
        lambda: journal.steps(run.number),
    ):
        with pytest.raises(JournalUnavailable, match="resume the run"):
            attempt()
    server.start()
    journal.append(run.number, run.epoch, [row(run, 1)])
    journal.append(run.number, run.epoch, [row(run, 2)])
    assert [found.id & 0xFF for found in journal.steps(run.number)] == [1, 2]
    journal.close()


def test_a_server_that_goes_away_while_all_rows_are_read(server: PostgresServer) -> None:
    """No driver's error reaches who exports or checks, and a server that is away is not taken for a broken journal."""
    journal = PostgresJournal(server.url(), KEY, patience=0.3)
    journal.create_run(new("run"))
    rows = journal.dump()
    assert next(rows)[0] == "run"
    server.stop("immediate")
    with pytest.raises(JournalUnavailable, match=r"could not be read .* try again"):
        list(rows)
    for attempt in (lambda: list(journal.dump()), journal.faults):
        with pytest.raises(JournalOpenError, match="see that the server runs there"):
            attempt()
    server.start()

    class CutOff(PostgresJournal):
        def _rows(self) -> Iterator[TableRow]:
            for one in super()._rows():
                server.stop("immediate")
                yield one

    checked = CutOff(journal.address, KEY, patience=0.3)
    with pytest.raises(JournalUnavailable, match=r"could not be read .* try again"):
        checked.faults()
    server.start()
    assert journal.faults() == []
    assert [row["id"] for table, row in journal.dump() if table == "run"] == ["run"]
    checked.close()
    journal.close()
