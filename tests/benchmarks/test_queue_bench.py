"""A queue of runs of one step each, filled and drained by one worker, as a ratio to a bare loop; for ``make bench``.

The bare loop has one table and makes the same promises with the same driver: a job is committed when it is put in; one
job at a time is claimed (BEGIN IMMEDIATE, or SKIP LOCKED); each result is committed, and each end survives a power
failure. It has no runs, steps, names, owners or events. The ratio to a loop that claims as many at once as the worker
has places is printed beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import psycopg
import pytest

from agentflow import flow, task
from agentflow.engine.active import Options
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.benchmarks.measure import KEY, Bench, compare, table
from tests.journal.postgres_server import PostgresServer, running_server

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
RUNS, PLACES = 10_000, 64
#: Seconds between two looks at whether all is done; what a look takes counts as the worker's time.
LOOK_EVERY = 0.02
BARS = {"enqueued and drained": 3.0}


@task
def add(number: int) -> int:
    return number + 1


@flow
def job(number: int) -> int:
    return add(number)


_pause = threading.Event()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A folder to measure in."""
    with Bench() as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that puts to disk what it says that it has."""
    with running_server() as running:
        yield running


def worked(opened: Callable[[], Journal], count: int) -> float:
    """Seconds in which runs are asked for, and a worker has run them all."""
    journal, options = opened(), replace(Options(settings=Settings(max_runs=PLACES)), suspend_after=60.0)
    worker = InlineWorker(journal, {job.name: job}, options=options)
    begin = time.perf_counter()
    for number in range(count):
        new = worker.new_run(job, {"number": number}, Origin.PERSON)
        journal.create_run(new, state=StateType.PENDING)
    with worker:
        waits = RunFilter(1, (StateType.PENDING, StateType.RUNNING))
        while journal.list_runs(waits):
            _pause.wait(LOOK_EVERY)
        taken = time.perf_counter() - begin
    completed = journal.list_runs(RunFilter(count + 1, (StateType.COMPLETED,)))
    assert len(completed) == count
    journal.close()
    return taken


def floor_of_a_file(bench: Bench, count: int, at_once: int) -> float:
    """Seconds for a bare queue in a file, of which so many jobs are claimed at once."""
    db = bench.connect()
    db.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, state TEXT, value BLOB, owner TEXT, ended REAL)")
    db.execute("CREATE INDEX job_ready ON job (id) WHERE state = 'pending'")
    begin = time.perf_counter()
    for number in range(count):
        db.execute("INSERT INTO job VALUES (?, 'pending', ?, '', NULL)", (number, b"%d" % number))
    while True:
        db.execute("BEGIN IMMEDIATE")
        claimed = db.execute(
            "UPDATE job SET state = 'running', owner = 'me' WHERE id IN (SELECT id FROM job WHERE state = 'pending' "
            "ORDER BY id LIMIT ?) RETURNING id, value",
            (at_once,),
        ).fetchall()
        db.execute("COMMIT")
        if not claimed:
            break
        for number, value in claimed:
            result = b"%d" % (int(cast("bytes", value)) + 1)
            db.execute(
                "INSERT INTO step VALUES (?, NULL, 1, ?, 'add', 'completed', ?, ?, ?)",
                (number, b"k" * 16, result, time.time(), time.time()),
            )
            db.execute("PRAGMA synchronous=FULL").fetchall()
            db.execute(
                "UPDATE job SET state = 'completed', value = ?, ended = ? WHERE id = ?",
                (result, time.time(), number),
            )
            db.execute("PRAGMA synchronous=NORMAL").fetchall()
    taken = time.perf_counter() - begin
    db.close()
    return taken


def floor_of_a_server(server: PostgresServer, count: int, at_once: int) -> float:
    """Seconds for a bare queue on a server, of which so many jobs are claimed at once."""
    with psycopg.connect(server.url().partition("?")[0], autocommit=True) as db:
        db.execute(b"DROP TABLE IF EXISTS job, result")
        db.execute(
            b"CREATE TABLE job (id BIGINT PRIMARY KEY, state TEXT, value BYTEA, owner TEXT, ended DOUBLE PRECISION)"
        )
        db.execute(b"CREATE INDEX job_ready ON job (id) WHERE state = 'pending'")
        db.execute(
            b"CREATE TABLE result (id BIGINT PRIMARY KEY, name TEXT, value BYTEA, ended DOUBLE PRECISION)"
        )
        begin = time.perf_counter()
        for number in range(count):
            db.execute(b"INSERT INTO job VALUES (%s, 'pending', %s, '', NULL)", (number, b"%d" % number))
        while claimed := db.execute(
            b"UPDATE job SET state = 'running', owner = 'me' WHERE id IN (SELECT id FROM job WHERE state = 'pending' "
            b"ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id, value",
            (at_once,),
        ).fetchall():
            for number, value in claimed:
                result = b"%d" % (int(value) + 1)
                db.execute(b"SET synchronous_commit = off")
                db.execute(b"INSERT INTO result VALUES (%s, 'add', %s, %s)", (number, result, time.time()))
                db.execute(b"SET synchronous_commit = on")
                db.execute(
                    b"UPDATE job SET state = 'completed', value = %s, ended = %s WHERE id = %s",
                    (result, time.time(), number),
                )
        return time.perf_counter() - begin


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_queue_is_drained_at_a_third_of_the_bare_rate(
    kind: str, bench: Bench, request: pytest.FixtureRequest
) -> None:
    """10,000 runs of one step."""
    opened: Callable[[], Any] = bench.journal
    floor: Callable[[int], float] = partial(floor_of_a_file, bench, RUNS)
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("server")
        opened = partial(PostgresJournal, server.url(), KEY)
        floor = partial(floor_of_a_server, server, RUNS)
    figures = compare(
        {"enqueued and drained": lambda: worked(opened, RUNS)}, partial(floor, 1), RUNS, rounds=1
    )
    batched = floor(PLACES) / RUNS * 1e6
    print(f"\n{kind}: {1e6 / figures[0].micros:.0f} runs a second\n{table(figures, BARS)}")
    print(f"to a loop that claims {PLACES} at once: {figures[0].micros / batched:.2f}")
    assert [figure for figure in figures if figure.ratio > BARS[figure.name]] == []
