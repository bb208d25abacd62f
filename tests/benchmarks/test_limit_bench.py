"""What a slot of a limit costs: taken and given back alone, and around a step. Printed by ``make bench``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from agentflow import concurrency, flow, task
from agentflow.flows import Flow
from agentflow.model.limits import Claim, Grant, Limit
from tests.benchmarks.measure import Bench, compare, table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
COUNT = 500
#: In units of the floor of one step. One commit stores a slot, with the checks of a queue; another one removes it.
BAR = 60.0


@task
def add(a: int, b: int) -> int:
    return a + b


@task(tags=["db"])
def tagged(a: int, b: int) -> int:
    return a + b


@flow(validate_parameters=False)
def bare(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        add(index, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
def limited(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        tagged(index, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
def in_blocks(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        with concurrency("db"):
            add(index, 1)
    return time.perf_counter() - begin


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A folder to measure in."""
    with Bench() as made:
        yield made


def taken_and_given_back(bench: Bench) -> float:
    """Seconds for the verbs of the journal alone."""
    journal = bench.journal()
    journal.set_limit(Limit("db", 5))
    begin = time.perf_counter()
    for index in range(COUNT):
        assert journal.claim_slots(Claim(str(index), ("db",), keeper="bench")) is Grant.HELD
        journal.release_slots([str(index)])
    taken = time.perf_counter() - begin
    journal.close()
    return taken


def under_limits(bench: Bench, which: Flow[..., float], *names: str) -> Callable[[], float]:
    """Seconds that the steps of a fresh run took, where such limits are defined."""

    def measure() -> float:
        journal = bench.journal()
        for name in names:
            journal.set_limit(Limit(name, 5))
        outcome = which.run({"count": COUNT}, journal=journal, options=bench.options())
        journal.close()
        return float(outcome.value)

    return measure


def test_a_slot_costs_a_few_commits(bench: Bench) -> None:
    """And a limit that nothing of a run needs costs its steps nothing."""
    cases = {
        "a step, no limit": under_limits(bench, bare),
        "a step beside a limit of another tag": under_limits(bench, bare, "tag:db"),
        "a slot taken and given back": lambda: taken_and_given_back(bench),
        "a step with a slot of its tag": under_limits(bench, limited, "tag:db"),
        "a step in a concurrency() block": under_limits(bench, in_blocks, "db"),
    }
    figures = compare(cases, lambda: bench.floor(COUNT), COUNT)
    print("\n" + table(figures, {}))
    assert all(figure.ratio < BAR for figure in figures)
