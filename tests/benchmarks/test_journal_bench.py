"""What a commit of the journal costs under many threads, as a ratio to a bare loop; printed by ``make bench``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agentflow.model.ids import new_id
from agentflow.model.runs import NewRun, Origin
from agentflow.model.steps import StepRow
from tests.benchmarks.measure import Bench, Figure, compare, table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
COMMITS = 1600
DURABLE = 320


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A folder to measure in."""
    with Bench() as made:
        yield made


def appends(bench: Bench, threads: int, count: int, *, durable: bool = False) -> Callable[[], float]:
    """Seconds for `count` appends of one row each, shared among threads."""

    def measure() -> float:
        journal = bench.journal()
        run = journal.create_run(NewRun(new_id(), "f", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0))
        started = threading.Barrier(threads + 1)

        def write(first: int) -> None:
            started.wait()
            for sequence in range(first, count + 1, threads):
                begun = time.time()
                row = StepRow(
                    (run.number << 32) + sequence, "completed", "task", "add", b"", b"k" * 16, b"", 0, 0, 0, 0,
                    0, begun, time.time(), b"%d" % sequence, None,
                )  # fmt: skip
                journal.append(run.number, run.epoch, [row], durable=durable)

        workers = [threading.Thread(target=write, args=(first,)) for first in range(1, threads + 1)]
        for worker in workers:
            worker.start()
        started.wait()
        begin = time.perf_counter()
        for worker in workers:
            worker.join()
        taken = time.perf_counter() - begin
        assert len(journal.steps(run.number)) == count
        journal.close()
        return taken

    return measure


BARS = {"append, 1 thread": 1.6, "append, 4 threads": 4.0, "append, 16 threads": 6.0}


def test_many_threads_share_the_cost_of_commits(bench: Bench) -> None:
    """A commit costs little more than a bare one, however many threads ask for it."""
    figures: list[Figure] = compare(
        {
            f"append, {threads} thread{'s' * (threads > 1)}": appends(bench, threads, COMMITS)
            for threads in (1, 4, 16)
        },
        lambda: bench.floor(COMMITS),
        COMMITS,
        rounds=5,
    )
    figures += compare(
        {
            f"durable append, {threads} thread{'s' * (threads > 1)}": appends(
                bench, threads, DURABLE, durable=True
            )
            for threads in (1, 4, 16)
        },
        lambda: bench.floor(DURABLE, full=True),
        DURABLE,
        rounds=5,
    )
    print("\n" + table(figures, BARS))
    assert [figure for figure in figures if figure.ratio > BARS.get(figure.name, float("inf"))] == []
