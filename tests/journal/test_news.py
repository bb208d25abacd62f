"""News between processes on PostgreSQL: a hint that comes soon, and connections that come back by themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from agentflow.journal.postgres import PostgresJournal
from tests.journal.postgres_driver import KEY, new, row
from tests.journal.postgres_server import PostgresServer

LEASE = 3.0


@pytest.fixture
def journals(postgres: PostgresServer) -> Iterator[tuple[PostgresJournal, PostgresJournal]]:
    """Two processes' journals in one schema."""
    url = postgres.url()
    pair = PostgresJournal(url, KEY, lease=LEASE), PostgresJournal(url, KEY, lease=LEASE)
    yield pair
    for journal in pair:
        journal.close()


def until_heard(heard: threading.Event, journal: PostgresJournal, numbers: Iterator[int]) -> None:
    """Change something until somebody hears of it: what was said before they listened, nobody hears."""
    while not heard.wait(0.02):
        journal.create_run(new(f"run-{next(numbers)}"))


def cut_connections(server: PostgresServer) -> int:
    """End all sessions of journals, from the server's side; how many there were."""
    with psycopg.connect(server.url().partition("?")[0], autocommit=True) as db:
        ended = db.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentflow'"
        ).fetchall()
    return len(ended)


def test_what_one_process_commits_another_hears_of(journals: tuple[PostgresJournal, PostgresJournal]) -> None:
    """And whoever only looks sees that the version is another one."""
    first, second = journals
    heard = threading.Event()
    undo = second.subscribe(heard.set)
    before = second.version()
    until_heard(heard, first, count())
    assert second.version() != before
    undo()


def test_connections_that_are_cut_come_back(
    postgres: PostgresServer, journals: tuple[PostgresJournal, PostgresJournal]
) -> None:
    """Writing, reading, the lease and the news go on; the run stays its owner's."""
    first, second = journals
    heard, numbers = threading.Event(), count()
    second.subscribe(heard.set)
    run = first.create_run(new("mine"))
    until_heard(heard, first, numbers)
    for sequence in range(1, 6):
        assert cut_connections(postgres) > 2
        heard.clear()
        first.append(run.number, run.epoch, [row(run, sequence)], durable=sequence % 2 == 0)
        until_heard(heard, first, numbers)
    assert [found.id & 0xFF for found in second.steps(run.number)] == [1, 2, 3, 4, 5]
    assert second.is_owned(run)
