"""What a step costs, as a ratio to recording it with a bare loop; printed by ``make bench``, with a bar for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentflow import INPUTS, flow, task
from agentflow.engine.flow_run import Outcome, run_blocking
from agentflow.flows import Flow
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from tests.benchmarks.measure import Bench, Figure, compare, table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
STEPS = 1000


@task
def add(a: int, b: int) -> int:
    return a + b


@task
async def add_async(a: int, b: int) -> int:
    return a + b


@task(cache_policy=INPUTS)
def add_cached(a: int, b: int) -> int:
    return a + b


@flow(validate_parameters=False)
def in_sequence(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        add(index, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
async def in_sequence_async(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        await add_async(index, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
async def fanned_out(count: int) -> float:
    begin = time.perf_counter()
    await asyncio.gather(*[add_async(index, 1) for index in range(count)])
    return time.perf_counter() - begin


@flow(validate_parameters=False)
def cached(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        add_cached(index, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
def empty() -> None:
    """Does nothing."""


class Stop(BaseException):
    """Ends a life without ending its run."""


@flow(validate_parameters=False)
def stopped(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        add(index, 1)
    if not stop_now:
        return time.perf_counter() - begin
    raise Stop


stop_now: list[int] = []


def value_of(outcome: Outcome) -> Any:
    """The value of a run that must have completed."""
    assert outcome.state is StateType.COMPLETED, outcome
    return outcome.value


def live(bench: Bench, which: Flow[..., Any], count: int = STEPS) -> Callable[[], float]:
    """Seconds that the steps of a fresh run took."""

    def measure() -> float:
        journal = bench.journal()
        seconds = value_of(which.run({"count": count}, journal=journal, options=bench.options()))
        journal.close()
        return seconds

    return measure


def crashed(bench: Bench) -> tuple[SqliteJournal, str]:
    """A journal in which a run has recorded all its steps and not ended."""
    journal = bench.journal()
    stop_now.append(1)
    with pytest.raises(Stop):
        stopped.run({"count": STEPS}, journal=journal, options=bench.options())
    stop_now.clear()
    (run,) = journal.due_runs(time.time())
    return journal, run.id


def replayed(bench: Bench) -> float:
    """Seconds to load a run of finished steps and to replay them."""
    journal, run_id = crashed(bench)
    begin = time.perf_counter()
    active, arguments = stopped.claim(run_id, journal=journal, options=bench.options())
    taken = time.perf_counter() - begin
    outcome = run_blocking(active, stopped.body(arguments))
    assert (outcome.tally.reused, outcome.tally.executed) == (STEPS, 0)
    journal.close()
    return taken + value_of(outcome)


def resumed(bench: Bench) -> float:
    """Seconds to resume such a run as a whole, its durable end included."""
    journal, run_id = crashed(bench)
    begin = time.perf_counter()
    value_of(stopped.resume(run_id, journal=journal, options=bench.options()))
    taken = time.perf_counter() - begin
    journal.close()
    return taken


def cache_hits(bench: Bench) -> float:
    """Seconds to take every step from an earlier run."""
    journal = bench.journal()
    cached.run({"count": STEPS}, journal=journal, options=bench.options())
    outcome = cached.run({"count": STEPS}, journal=journal, options=bench.options())
    assert outcome.tally.cached == STEPS
    journal.close()
    return value_of(outcome)


def empty_runs(bench: Bench, count: int) -> float:
    """Seconds to start and end runs of nothing."""
    journal = bench.journal()
    options = bench.options()
    begin = time.perf_counter()
    for _ in range(count):
        empty.run({}, journal=journal, options=options)
    taken = time.perf_counter() - begin
    journal.close()
    return taken


#: With room for machines whose disk is fast and whose processor is slow: a floor is mostly disk, the engine is not.
BARS = {
    "1,000 steps, sync, in sequence": 2.25,
    "1,000 steps, async, in sequence": 2.75,
    "1,000 steps, gathered": 3.0,
    "1,000 finished steps loaded and replayed": 0.75,
    "a run started and ended (own floor)": 8.0,
}


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A folder to measure in."""
    with Bench() as made:
        yield made


def test_steps_cost_little_more_than_recording_them(bench: Bench) -> None:
    """Each workload stays under its bar."""
    cases = {
        "1,000 steps, sync, in sequence": live(bench, in_sequence),
        "1,000 steps, async, in sequence": live(bench, in_sequence_async),
        "1,000 steps, gathered": live(bench, fanned_out),
        "1,000 finished steps loaded and replayed": lambda: replayed(bench),
        "the same run resumed, its end included": lambda: resumed(bench),
        "1,000 hits in the cache across runs": lambda: cache_hits(bench),
    }
    figures = compare(cases, lambda: bench.floor(STEPS), STEPS)
    runs = 200
    figures += compare(
        {"a run started and ended (own floor)": lambda: empty_runs(bench, runs)},
        lambda: bench.floor_of_a_run(runs),
        runs,
    )
    floor = bench.floor(STEPS) / STEPS * 1e6
    print(f"\nfloor: {floor:.1f} us a step (one apsw row, one commit)\n" + table(figures, BARS))
    over = [figure for figure in figures if figure.ratio > BARS.get(figure.name, float("inf"))]
    assert not over


def test_the_cost_of_a_step_does_not_grow_with_the_run(bench: Bench) -> None:
    """The last steps of a run of 10,000 cost what the first hundred cost."""
    figures: list[Figure] = []
    for count in (100, 1000, 10_000):
        name = f"{count:,} steps, sync, in sequence"
        figures += compare(
            {name: live(bench, in_sequence, count)}, lambda count=count: bench.floor(count), count, rounds=5
        )
    print("\n" + table(figures, {}))
    assert figures[-1].ratio < 1.3 * figures[0].ratio
