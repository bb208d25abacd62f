"""Listings: what they find, in which order, and that none of them reads a table from end to end.

What grows with the years are the tables in `GROWING`. A statement that reads one of them whole, in any store, fails
here, unless it is among `EXCEPTIONS`, with the reason.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import apsw
import psycopg
import pytest

from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.postgres.statements import SQL as POSTGRES
from agentflow.journal.protocol import CacheFilter, Journal, RunFilter
from agentflow.journal.sql import queries
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.ids import new_id
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS, WaitKind
from tests.journal.postgres_server import PostgresServer
from tests.journal.stores import KEY, STORES, open_store
from tests.journal.test_journals import new_run, wait

GROWING = {
    "run", "run_tag", "step", "life", "fork", "wait", "event", "cache", "cache_lock", "log", "pruned", "slot",
    "receipt",
}  # fmt: skip
EXCEPTIONS = {
    "lapsed_keepers": "one row for each process that runs",
    "bury_keeper": "one row for each process that runs",
    "drop_lapsed_keepers": "one row for each process that runs",
    "drop_receipts": "one row for each process of a day",
    "granted_claims": "the slots that are held or waited for at this moment",
    "renew_slots": "the slots that are held or waited for at this moment",
    "prunable": "once an hour, page by page, through all runs in the order of their numbers",
    "prunable_locked": "as `prunable`",
    "SELECT * FROM run WHERE 1 = 1 ORDER BY number DESC LIMIT ?": "the newest, in the order of their numbers",
}
TAGS = ("nightly", 'say "x"', "a\\nb", "back\\\\slash", "it's", "[1]", "\u00fc")


@pytest.fixture(params=STORES)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """Each store, empty."""
    made = open_store(request, tmp_path)
    yield made
    made.close()


def filled(journal: Journal) -> list[Run]:
    """Runs of three flows, in five states, with none to three tags, some below others; the newest first."""
    states = (None, StateType.COMPLETED, StateType.FAILED, StateType.PAUSED, StateType.RUNNING)
    parent = journal.create_run(replace(new_run("above"), tags=()))
    for index in range(60):
        tags = tuple(tag for place, tag in enumerate(TAGS) if index % (place + 2) == 0)[:3]
        below = parent.id if index % 4 == 0 else ""
        new = replace(new_run(f"flow {index % 3}"), id=new_id(), tags=tags, parent=below)
        state = states[index % 5]
        run = journal.create_run(new, state=StateType.RUNNING if state else StateType.PENDING)
        if state not in (None, StateType.RUNNING):
            journal.set_state(run.number, run.epoch, cast("StateType", state), release=True)
    return journal.list_runs(RunFilter(limit=1000))


def fits(run: Run, wanted: RunFilter) -> bool:
    """Whether a listing has that run."""
    return (
        (not wanted.states or run.state in wanted.states)
        and wanted.flow in ("", run.flow)
        and wanted.parent in ("", run.parent)
        and (wanted.before is None or run.number < wanted.before)
        and run.id.endswith(wanted.id_end)
        and set(wanted.tags) <= set(run.tags)
    )


def filters(runs: Sequence[Run]) -> Iterator[RunFilter]:
    """All kinds of listings, combined."""
    combined = itertools.product(
        ((), (StateType.FAILED,), (StateType.COMPLETED, StateType.PENDING, StateType.COMPLETED)),
        ("", "flow 1", "none"),
        (None, runs[20].number),
        ("", runs[-1].id),
        ((), TAGS[:1], TAGS[2:3], TAGS[:2], ("nightly", "none")),
    )
    for place, (states, flow, before, parent, tags) in enumerate(combined):
        yield RunFilter((3, 50)[place % 2], states, flow, before, "", parent, tags)
    yield RunFilter(id_end=runs[7].id[-6:])
    yield RunFilter(id_end=runs[7].id[-6:], flow="none")


def test_a_listing_has_the_newest_of_what_fits(journal: Journal) -> None:
    """Whatever filters are combined, and however deep the page."""
    runs = filled(journal)
    assert [run.number for run in runs] == sorted((run.number for run in runs), reverse=True)
    for wanted in filters(runs):
        assert journal.list_runs(wanted) == [run for run in runs if fits(run, wanted)][: wanted.limit], wanted


def test_a_tag_follows_its_run(journal: Journal) -> None:
    """Through every state, and back when an ended run goes on."""
    run = journal.create_run(replace(new_run(), tags=TAGS), state=StateType.PENDING)

    def where(tag: str) -> list[StateType]:
        return [s for s in StateType if journal.list_runs(RunFilter(states=(s,), tags=(tag,)))]

    assert {tag: where(tag) for tag in TAGS} == {tag: [StateType.PENDING] for tag in TAGS}
    run = journal.claim_run(run.id)
    assert where(TAGS[1]) == [StateType.RUNNING]
    journal.set_state(run.number, run.epoch, StateType.FAILED, release=True)
    assert where(TAGS[2]) == [StateType.FAILED]
    journal.reopen_run(run.number, run.epoch)
    assert where(TAGS[3]) == [StateType.PENDING]
    journal.request_cancel(run.id, "enough")
    assert where(TAGS[4]) == [StateType.CANCELLED]


def test_questions_are_listed_by_their_time(journal: Journal) -> None:
    """The open ones of all kinds oldest first, a page of them; the history of some kinds newest first."""
    run = journal.create_run(new_run())
    kinds = [WaitKind.INPUT, WaitKind.TIMER, WaitKind.APPROVAL, WaitKind.EVENT]
    for index in range(12):
        asked = replace(wait(run, f"w{index:02}", kinds[index % 4]), opened=float(100 - index))
        journal.open_wait(run.epoch, asked)
    listed = journal.list_waits(limit=5)
    assert [found.name for found in listed] == ["w11", "w10", "w09", "w08", "w07"]
    persons = journal.list_waits(kinds=PERSON_KINDS, limit=3)
    assert [found.name for found in persons] == ["w10", "w08", "w06"]
    history = journal.list_waits(open_only=False, kinds=PERSON_KINDS, limit=3)
    assert [found.name for found in history] == ["w00", "w02", "w04"]
    assert [found.name for found in journal.list_waits(number=run.number, limit=2)] == ["w11", "w10"]


class WatchedFile(SqliteJournal):
    """Remembers what it was asked to read."""

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        self.asked[sql] = values
        return super()._all(sql, values)

    asked: dict[str, Sequence[Any]]


class WatchedServer(PostgresJournal):
    """Remembers what it was asked to read."""

    def _all(self, statement: bytes, values: Sequence[Any] = ()) -> list[Any]:
        self.asked[statement] = values
        return super()._all(statement, values)

    asked: dict[bytes, Sequence[Any]]


def look_everywhere(journal: Journal) -> None:
    """Every listing that the commands, the pages, the API and the MCP tools have."""
    runs = filled(journal)
    for wanted in filters(runs):
        journal.list_runs(wanted)
    for number, open_only, kinds in itertools.product(
        (None, runs[0].number),
        (True, False),
        (frozenset[WaitKind](), PERSON_KINDS, frozenset({WaitKind.EVENT})),
    ):
        journal.list_waits(number=number, open_only=open_only, kinds=kinds)
    for wanted in itertools.starmap(CacheFilter, itertools.product(("", "t"), ("", "n"), (None, 9.0))):
        journal.cache_entries(wanted)
    journal.due_runs(9.0, limit=5)
    journal.due_runs(9.0, without=["flow 1"])
    for number in (run.number for run in runs[:1]):
        journal.logs(number)
        journal.steps(number)
        journal.lives(number)
        journal.fork_of(number)
        journal.unread_answers(number)


SCAN = re.compile(r"SCAN (\w+)(?! USING (?:COVERING )?INDEX (?:slot|cache_by_age))")


def test_no_statement_reads_a_whole_table_of_a_file(tmp_path: Path) -> None:
    """Neither the named ones nor those that filters make."""
    WatchedFile.asked = {}
    journal = WatchedFile(tmp_path / "j.db", KEY)
    look_everywhere(journal)
    journal.close()
    statements = queries() | {sql: sql for sql in WatchedFile.asked}
    database = apsw.Connection(str(tmp_path / "j.db"))
    found = {name: _scanned(database, sql) for name, sql in statements.items() if name not in EXCEPTIONS}
    database.close()
    assert {name: tables for name, tables in found.items() if tables} == {}


def _scanned(database: apsw.Connection, sql: str) -> set[str]:
    count = max(sql.count("?"), max(map(int, re.findall(r"\?(\d+)", sql)), default=0))
    numbered = bool(re.search(r"\?\d", sql))
    values = [None] * (max(map(int, re.findall(r"\?(\d+)", sql))) if numbered else count)
    plan = database.execute(f"EXPLAIN QUERY PLAN {sql}", values)
    return {table for row in plan for table in SCAN.findall(str(row[3])) if table in GROWING}


def test_no_statement_reads_a_whole_table_of_a_server(postgres: PostgresServer) -> None:
    """The same on PostgreSQL: told to avoid that, its planner finds another way for each of them."""
    WatchedServer.asked = {}
    url = postgres.url()
    journal = WatchedServer(url, KEY)
    look_everywhere(journal)
    statements = {name: sql for name, sql in POSTGRES.items() if name not in EXCEPTIONS}
    statements |= {sql.decode(): sql for sql in WatchedServer.asked}
    schema = url.partition("schema=")[2]
    with psycopg.connect(url.partition("?")[0], autocommit=True) as database:
        database.execute(f"SET search_path = {schema}; SET enable_seqscan = off".encode())
        found = {name: _read_whole(database, sql) for name, sql in statements.items()}
    journal.close()
    assert {name: tables for name, tables in found.items() if tables} == {}


def _read_whole(database: psycopg.Connection[Any], sql: bytes) -> set[str]:
    try:
        plan = database.execute(b"EXPLAIN (GENERIC_PLAN) " + sql).fetchall()
    except psycopg.errors.AmbiguousParameter:  # drivers tell the type of what they send
        return _read_whole(database, re.sub(rb"\$1\b", b"CAST($1 AS BIGINT)", sql))
    return {
        table for row in plan for table in re.findall(r"Seq Scan on (\w+)", str(row[0])) if table in GROWING
    }


def test_a_statement_that_reads_a_whole_table_is_seen(tmp_path: Path, postgres: PostgresServer) -> None:
    """These tests can fail."""
    sql = "SELECT * FROM run WHERE name = ?"
    SqliteJournal(tmp_path / "j.db", KEY).close()
    assert _scanned(apsw.Connection(str(tmp_path / "j.db")), sql) == {"run"}
    url = postgres.url()
    PostgresJournal(url, KEY).close()
    with psycopg.connect(url.partition("?")[0], autocommit=True) as database:
        database.execute(
            f"SET search_path = {url.partition('schema=')[2]}; SET enable_seqscan = off".encode()
        )
        assert _read_whole(database, sql.replace("?", "$1").encode()) == {"run"}
