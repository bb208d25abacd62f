"""What a step costs on PostgreSQL, as a ratio to a bare psycopg loop on the same server; printed by ``make bench``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from agentflow.engine.active import Options
from agentflow.flows import Flow
from agentflow.journal.postgres import PostgresJournal
from agentflow.model.states import StateType
from agentflow.settings import Settings
from tests.benchmarks.measure import KEY, Figure, compare, table
from tests.benchmarks.test_engine_bench import fanned_out, in_sequence, in_sequence_async, value_of
from tests.journal.postgres_driver import new, row
from tests.journal.postgres_server import PostgresServer, running_server

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
STEPS, DURABLE = 1000, 240
BARS = {
    "append": 3.0,
    "step of a sync flow": 3.0,
    "step of an async flow": 4.0,
    "step of 1,000 gathered": 1.0,
    "append, 16 threads": 2.0,
    "durable append": 3.0,
    "durable append, 16 threads": 1.0,
}
_TABLE = b"""CREATE TABLE bare (id BIGINT PRIMARY KEY, event TEXT, kind TEXT, name TEXT, scope BYTEA, key BYTEA,
  branch BYTEA, occurrence BIGINT, effects BIGINT, effect BIGINT, attempt BIGINT, batch BIGINT,
  started DOUBLE PRECISION, ended DOUBLE PRECISION, value BYTEA, detail BYTEA)"""
_INSERT = b"INSERT INTO bare VALUES (" + b", ".join([b"%s"] * 16) + b")"


class Floor:
    """A bare loop: the same columns, one statement and one commit for each row."""

    def __init__(self, server: PostgresServer) -> None:
        self._db = psycopg.connect(server.url().partition("?")[0], autocommit=True)
        self._db.execute(_TABLE)
        self._next = 0

    def seconds(self, count: int, *, durable: bool = False) -> float:
        self._db.execute(f"SET synchronous_commit = {'on' if durable else 'off'}".encode())
        begin = time.perf_counter()
        for _ in range(count):
            self._next += 1
            values = (
                self._next, "completed", "task", "add", b"", b"k" * 16, b"", 0, 0, 0, 0, 0, time.time(),
                time.time(), b"2", None,
            )  # fmt: skip
            self._db.execute(_INSERT, values)
        return time.perf_counter() - begin

    def close(self) -> None:
        self._db.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that puts to disk what it says that it has."""
    with running_server() as running:
        yield running


def appends(
    server: PostgresServer, threads: int, count: int, *, durable: bool = False
) -> Callable[[], float]:
    """Seconds for `count` rows, shared among threads."""

    def measure() -> float:
        journal = PostgresJournal(server.url(), KEY)
        run = journal.create_run(new("run"))
        start = threading.Barrier(threads + 1)

        def write(first: int) -> None:
            start.wait()
            for sequence in range(first, count + 1, threads):
                journal.append(run.number, run.epoch, [row(run, sequence)], durable=durable)

        workers = [threading.Thread(target=write, args=(first,)) for first in range(1, threads + 1)]
        for worker in workers:
            worker.start()
        start.wait()
        begin = time.perf_counter()
        for worker in workers:
            worker.join()
        taken = time.perf_counter() - begin
        assert len(journal.steps(run.number)) == count
        journal.set_state(run.number, run.epoch, StateType.COMPLETED, release=True)
        journal.close()
        return taken

    return measure


def test_a_step_costs_little_more_than_its_row(server: PostgresServer) -> None:
    """Sequential steps at most three times a bare loop; concurrent ones share round trips and commits."""
    floor, options = Floor(server), Options(settings=Settings())

    def live(which: Flow[..., Any]) -> Callable[[], float]:
        def measure() -> float:
            journal = PostgresJournal(server.url(), KEY)
            taken = value_of(which.run({"count": STEPS}, journal=journal, options=options))
            journal.close()
            return taken

        return measure

    figures: list[Figure] = compare(
        {
            "append": appends(server, 1, STEPS),
            "step of a sync flow": live(in_sequence),
            "step of an async flow": live(in_sequence_async),
            "step of 1,000 gathered": live(fanned_out),
            "append, 16 threads": appends(server, 16, STEPS),
        },
        lambda: floor.seconds(STEPS),
        STEPS,
        rounds=5,
    )
    figures += compare(
        {
            "durable append": appends(server, 1, DURABLE, durable=True),
            "durable append, 16 threads": appends(server, 16, DURABLE, durable=True),
        },
        lambda: floor.seconds(DURABLE, durable=True),
        DURABLE,
        rounds=3,
    )
    floor.close()
    print("\n" + table(figures, BARS))
    assert [figure for figure in figures if figure.ratio > BARS[figure.name]] == []
