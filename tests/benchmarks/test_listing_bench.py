"""Pages of 1,000,000 runs, as a ratio to one look-up by an index in the same database; printed by ``make bench``.

The look-up reads fifty rows that stand one after another in an index, with the bare driver. A page that had to go
through the table, or to sort what it finds, would take thousands of times as long.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.postgres.statements import translated
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.journal.sql.filters import runs_listed
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS
from tests.benchmarks.measure import KEY, Bench, Figure, bare, table
from tests.journal.postgres_server import PostgresServer, running_server

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
RUNS = 1_000_000
BAR = 12.0
_COLUMNS = (
    "id, flow, name, entrypoint, parameters, fingerprint, origins, state, message, created, started, ended, "
    "result, epoch, owner, cwd, interpreter, tags, crashes, parent"
)
# one of fifty has failed, one of a hundred waits for a signature; one of ten has a tag, one of ten thousand a rare one
_ROW = """
  'run-' || n, 'flow ' || (n % 100), 'quick-fox', 'app.py:flow', {none}, 'fp', 'person',
  CASE WHEN n % 100 = 1 THEN 'PAUSED' WHEN n % 50 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, '', n, n, n, {none}, 1, '',
  '/app', 'python',
  CASE WHEN n % 10000 = 0 THEN 'nightly' || {line} || 'rare' WHEN n % 10 = 0 THEN 'nightly' ELSE '' END, 0, ''"""
_WAIT = """
  'approval-' || n, n, 'run-' || n, 'flow', '00', 'approval', 'refund', {question}, {question}, 'd', 'p', n, NULL, NULL,
  NULL, '', NULL"""
FAILED, PAUSED, DONE = StateType.FAILED, StateType.PAUSED, StateType.COMPLETED
PAGES = {
    "the newest": RunFilter(),
    "of a state": RunFilter(states=(FAILED,)),
    "of a state that few have": RunFilter(states=(PAUSED,)),
    "of three states": RunFilter(states=(DONE, FAILED, PAUSED)),
    "of a flow": RunFilter(flow="flow 7"),
    "of a tag": RunFilter(tags=("nightly",)),
    "of a tag that few have": RunFilter(tags=("rare",)),
    "of a flow and a state": RunFilter(flow="flow 50", states=(FAILED,)),
    "of a tag and a state": RunFilter(tags=("nightly",), states=(FAILED,)),
    "of a flow, a tag and a state": RunFilter(flow="flow 50", tags=("nightly",), states=(FAILED,)),
    "of a flow and a tag that never meet": RunFilter(flow="flow 7", tags=("nightly",)),
    "half-way down": RunFilter(before=RUNS // 2, flow="flow 50", tags=("nightly",), states=(FAILED, DONE)),
}
LOOKED_UP, LOOKS = ("flow 7", "COMPLETED", 900_000), 60
LOOK_UP = "SELECT * FROM run WHERE flow = ? AND state = ? AND number < ? ORDER BY number DESC LIMIT 50"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A folder to measure in."""
    with Bench() as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with room for a million runs in its memory."""
    with running_server(fsync=False) as running:
        yield running


class Filled(NamedTuple):
    """A journal with so many runs, 10,000 of which wait for a signature; and how one looks something up, barely."""

    journal: SqliteJournal | PostgresJournal
    look_up: Callable[[], list[Any]]
    close: Callable[[], None]


def filled_file(bench: Bench) -> Filled:
    """In a file."""
    path = bench.path()
    SqliteJournal(path, KEY).close()
    db = bare(path)
    db.execute("BEGIN")
    series = (
        f"(WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {RUNS}) "  # noqa: S608 - our number
        "SELECT n FROM series)"
    )
    row, wait = _ROW.format(none="x''", line="char(10)"), _WAIT.format(question="CAST('{}' AS BLOB)")
    db.execute(f"INSERT INTO run ({_COLUMNS}) SELECT {row} FROM {series}")  # noqa: S608 - our text
    db.execute(f"INSERT INTO wait SELECT {wait} FROM {series} WHERE n % 100 = 1")  # noqa: S608 - our text
    db.execute("COMMIT")
    return Filled(SqliteJournal(path, KEY), lambda: db.execute(LOOK_UP, LOOKED_UP).fetchall(), db.close)


def filled_server(server: PostgresServer) -> Filled:
    """On a server."""
    url = server.url()
    journal = PostgresJournal(url, KEY)
    db = psycopg.connect(url.partition("?")[0], autocommit=True, cursor_factory=psycopg.RawCursor[Any])
    series = f"(SELECT n FROM generate_series(1, {RUNS}) AS n) AS series"  # noqa: S608 - our number
    row, wait = _ROW.format(none="''::bytea", line="chr(10)"), _WAIT.format(question="'{}'::bytea")
    for statement in (
        f"SET search_path = {url.partition('schema=')[2]}",
        f"INSERT INTO run ({_COLUMNS}) SELECT {row} FROM {series}",  # noqa: S608 - our text
        f"INSERT INTO wait SELECT {wait} FROM {series} WHERE n % 100 = 1",  # noqa: S608 - our text
        "VACUUM ANALYZE",
    ):
        db.execute(statement.encode())
    look_up = translated(LOOK_UP)
    return Filled(journal, lambda: db.execute(look_up, LOOKED_UP, prepare=True).fetchall(), db.close)


def explained(journal: Journal, sql: str, values: list[Any]) -> str:
    """How a statement is executed on so many rows."""
    if isinstance(journal, SqliteJournal):
        db = bare(journal.path)
        plan = "\n".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))
        db.close()
        return plan
    address, _, schema = journal.address.partition("?schema=")
    with psycopg.connect(address, autocommit=True, cursor_factory=psycopg.RawCursor[Any]) as db:
        db.execute(f"SET search_path = {schema}".encode())
        return "\n".join(str(row[0]) for row in db.execute(b"EXPLAIN " + translated(sql), values))


def figure(name: str, case: Callable[[], object], look_up: Callable[[], object]) -> Figure:
    """Taken in turns; the first ones, which prepare statements and warm caches, do not count."""
    taken: list[tuple[float, float]] = []
    for _ in range(LOOKS):
        begin = time.perf_counter()
        case()
        between = time.perf_counter()
        look_up()
        taken.append((between - begin, time.perf_counter() - between))
    own, floor = (statistics.median(times) for times in zip(*taken[LOOKS // 3 :], strict=True))
    return Figure(name, own * 1e6, own / floor)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_page_takes_the_time_of_a_look_up(kind: str, bench: Bench, request: pytest.FixtureRequest) -> None:
    """Of a million runs, whatever is asked for, wherever the page begins; and of 10,000 open questions."""
    filled = filled_file(bench) if kind == "sqlite" else filled_server(request.getfixturevalue("server"))
    journal, look_up, close = filled
    assert len(look_up()) == len(journal.list_runs(RunFilter())) == 50
    cases: dict[str, Callable[[], object]] = {
        f"runs: {name}": lambda wanted=wanted: journal.list_runs(wanted) for name, wanted in PAGES.items()
    }
    cases["questions: the inbox"] = lambda: journal.list_waits(kinds=PERSON_KINDS, limit=50)
    cases["questions: the history"] = lambda: journal.list_waits(
        open_only=False, kinds=PERSON_KINDS, limit=50
    )
    cases["runs that can move"] = lambda: journal.due_runs(0.0, limit=64)
    figures = [figure(name, case, look_up) for name, case in cases.items()]
    print(f"\n{kind}\n{table(figures, dict.fromkeys(cases, BAR))}")
    scan = re.compile(r"SCAN (?:run|run_tag|wait)\b|Seq Scan on (?:run|run_tag|wait)\b")
    plans = {
        name: explained(journal, *runs_listed(wanted))
        for name, wanted in PAGES.items()
        if wanted != RunFilter()
    }
    journal.close()
    close()
    assert {name: plan for name, plan in plans.items() if scan.search(plan)} == {}
    assert [figure for figure in figures if figure.ratio > BAR] == []
