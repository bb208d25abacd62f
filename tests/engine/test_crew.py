"""Threads for lives of runs: as many as wait at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from agentflow.engine.crew import Crew

PATIENCE = 60.0


def done_by(crew: Crew, jobs: int, work: Callable[[int], object]) -> set[int]:
    """The threads that have done so many jobs."""
    threads, over = list[int](), threading.Semaphore(0)

    def do(number: int) -> None:
        work(number)
        threads.append(threading.get_ident())
        over.release()

    for number in range(jobs):
        crew.start(lambda number=number: do(number), f"job-{number}")
    for _ in range(jobs):
        assert over.acquire(timeout=PATIENCE)
    return set(threads)


def none_left(_: threading.Thread) -> None:
    """What a thread's start comes to where the system gives no more."""
    message = "can't start new thread"
    raise RuntimeError(message)


def test_jobs_that_wait_for_each_other_all_have_a_thread() -> None:
    """Nothing that waits holds up what stands behind it, whether the process computes meanwhile or not."""
    for cpu in (time.process_time, time.perf_counter):
        meeting = threading.Barrier(100)
        assert len(done_by(Crew(cpu), 100, lambda _, meeting=meeting: meeting.wait(PATIENCE))) == 100


def test_jobs_that_only_compute_are_done_by_few_threads() -> None:
    """Passing the interpreter's lock among many would take longer than their work does."""
    assert len(done_by(Crew(time.perf_counter), 2_000, lambda number: sum(range(number % 100)))) < 100


def test_a_job_behind_a_long_one_begins() -> None:
    """Also where it is alone behind it, and where nobody has looked for a while."""
    crew, end, begun = Crew(), threading.Event(), threading.Semaphore(0)

    def long() -> None:
        begun.release()
        end.wait(PATIENCE)

    for _ in range(3):
        crew.start(long, "long")
        assert begun.acquire(timeout=PATIENCE)
    crew.start(begun.release, "short")
    assert begun.acquire(timeout=PATIENCE)
    assert crew.waiting == 0
    end.set()


def test_a_thread_bears_the_name_of_its_job() -> None:
    """So that a dump of the threads tells what they do."""
    names = set[str]()
    done_by(Crew(), 10, lambda _: names.add(threading.current_thread().name))
    assert names == {f"job-{number}" for number in range(10)}


def test_a_job_for_which_there_is_no_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wanted it done is told, and it is not done later."""
    crew, done = Crew(), list[int]()
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="can't start"):
            crew.start(lambda: done.append(1), "refused")
    assert crew.waiting == 0
    done_by(crew, 1, lambda _: done.append(2))
    assert done == [2]


def test_where_there_are_no_more_threads_jobs_wait_for_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy system makes them late, not wrong."""
    crew, end, over = Crew(), threading.Event(), threading.Semaphore(0)

    def long() -> None:
        over.release()
        end.wait(PATIENCE)

    crew.start(long, "long")
    assert over.acquire(timeout=PATIENCE)
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", none_left)
        for _ in range(1_000):
            crew.start(over.release, "short")
    end.set()
    for _ in range(1_000):
        assert over.acquire(timeout=PATIENCE)
