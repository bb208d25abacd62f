"""What a task of a process pool costs, as a ratio to a bare pool of the standard library that records nothing."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from agentflow import flow, task
from agentflow.model.states import StateType
from agentflow.task_runners import ProcessPoolTaskRunner
from tests.benchmarks.measure import Bench, compare, table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
TASKS = 1000
PROCESSES = 2
BAR = 8.0


def plus_one(x: int) -> int:
    return x + 1


@task
def increased(x: int) -> int:
    return x + 1


def linger(x: int) -> int:
    """Keep a process busy until the other ones are there, too."""
    threading.Event().wait(0.5)
    return x


lingers = task(linger)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=PROCESSES), validate_parameters=False)
def mapped(count: int) -> tuple[float, int]:
    lingers.map(range(PROCESSES)).result()
    begin = time.perf_counter()
    futures = increased.map(range(count))
    threads = threading.active_count()
    futures.result()
    return time.perf_counter() - begin, threads


def bare(count: int) -> Callable[[], float]:
    """The same work without a journal."""

    def measure() -> float:
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PROCESSES, mp_context=spawned) as pool:
            list(pool.map(linger, range(PROCESSES)))
            begin = time.perf_counter()
            for future in [pool.submit(plus_one, number) for number in range(count)]:
                future.result()
            return time.perf_counter() - begin

    return measure


def test_a_map_through_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand tasks through two processes: recorded, in so many times the time of a bare pool."""
    threads: list[int] = []
    with Bench() as bench:

        def ours() -> float:
            journal = bench.journal()
            outcome = mapped.run({"count": TASKS}, journal=journal, options=bench.options())
            journal.close()
            assert outcome.state is StateType.COMPLETED
            taken, count = outcome.value
            threads.append(count)
            return taken

        name = "process pool: a mapped task"
        figures = compare({name: ours}, bare(TASKS), TASKS, rounds=3)
    with capsys.disabled():
        print("\n" + table(figures, {name: BAR}))
        print(f"{1e6 / figures[0].micros:.0f} tasks/s; {max(threads)} threads")
    assert figures[0].ratio < BAR
    assert max(threads) < PROCESSES + 20
