"""What a transaction costs: three steps inside of one, beside the same three steps bare. Printed by ``make bench``."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agentflow import flow, task, transaction
from tests.benchmarks.measure import Bench, compare, table
from tests.benchmarks.test_engine_bench import live

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
BLOCKS, INSIDE = 300, 3
STEPS = BLOCKS * INSIDE
#: In units of the same three steps outside of one.
BAR = 4.0


@task
def add(a: int, b: int) -> int:
    return a + b


@task
async def add_async(a: int, b: int) -> int:
    return a + b


@flow(validate_parameters=False)
def bare(count: int) -> float:
    begin = time.perf_counter()
    for index in range(count):
        add(index, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
def in_blocks(count: int) -> float:
    begin = time.perf_counter()
    for index in range(0, count, INSIDE):
        with transaction():
            for number in range(INSIDE):
                add(index + number, 1)
    return time.perf_counter() - begin


@flow(validate_parameters=False)
async def in_async_blocks(count: int) -> float:
    begin = time.perf_counter()
    for index in range(0, count, INSIDE):
        async with transaction():
            for number in range(INSIDE):
                await add_async(index + number, 1)
    return time.perf_counter() - begin


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A folder to measure in."""
    with Bench() as made:
        yield made


def test_a_transaction_costs_about_what_its_rows_cost(bench: Bench) -> None:
    """Two rows and one commit more than its three steps."""
    cases = {
        "3 steps bare, each": live(bench, bare, STEPS),
        "3 steps in a transaction, each": live(bench, in_blocks, STEPS),
        "3 async steps in a transaction, each": live(bench, in_async_blocks, STEPS),
    }
    figures = compare(cases, lambda: bench.floor(STEPS), STEPS)
    print("\n" + table(figures, {}))
    plain, *blocks = figures
    for block in blocks:
        print(f"{block.name}: {block.ratio / plain.ratio:.2f} times the bare steps (bar {BAR})")
    assert all(block.ratio < BAR * plain.ratio for block in blocks)
