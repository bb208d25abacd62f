"""A run of 10,000 finished steps resumed, as a ratio to recording them, on both databases; for ``make bench``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentflow.engine.active import Options
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal
from agentflow.settings import Settings
from tests.benchmarks.measure import KEY, Bench, compare, table
from tests.benchmarks.test_engine_bench import Stop, stop_now, stopped, value_of
from tests.benchmarks.test_postgres_bench import Floor
from tests.journal.postgres_server import PostgresServer, running_server

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
STEPS = 10_000
BARS = {"a finished step of a resumed run": 2.0}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that puts to disk what it says that it has."""
    with running_server() as running:
        yield running


def resumed(opened: Callable[[], Journal]) -> float:
    """Seconds to claim the run, load its steps, replay them and record its end."""
    journal, options = opened(), Options(settings=Settings())
    stop_now.append(1)
    with pytest.raises(Stop):
        stopped.run({"count": STEPS}, journal=journal, options=options)
    stop_now.clear()
    (run,) = journal.due_runs(time.time())
    begin = time.perf_counter()
    outcome = stopped.resume(run.id, journal=journal, options=options)
    taken = time.perf_counter() - begin
    value_of(outcome)
    assert (outcome.tally.reused, outcome.tally.executed) == (STEPS, 0)
    journal.close()
    return taken


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_long_run_is_resumed_as_fast_as_its_steps_are_recorded(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """A finished step costs about a commit, on a busy machine at most two."""
    name = next(iter(BARS))
    with Bench() as bench:
        opened: Callable[[], Any] = bench.journal
        floor: Callable[[], float] = lambda: bench.floor(STEPS)  # noqa: E731
        if kind == "postgres":
            server: PostgresServer = request.getfixturevalue("server")
            bare = Floor(server)
            opened = lambda: PostgresJournal(server.url(), KEY)  # noqa: E731
            floor = lambda: bare.seconds(STEPS)  # noqa: E731
            request.addfinalizer(bare.close)
        figures = compare({name: lambda: resumed(opened)}, floor, STEPS, rounds=3)
    print(f"\n{kind}\n{table(figures, BARS)}")
    assert [figure for figure in figures if figure.ratio > BARS[figure.name]] == []
