"""Serialised isolation: of equal calls at the same time one runs, and the others take its result."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from agentflow import flow, request_input, task
from agentflow.cache_policies import CachePolicy, IsolationLevel
from agentflow.errors import ColourError
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import CacheLock, Journal
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict
from tests.fundamentals.lives import KEY, answer, last_run, log_of, options, resume, start

BY_X = CachePolicy.from_cache_key_fn(lambda _, arguments: str(arguments["x"]))
ALONE = BY_X.configure(isolation_level=IsolationLevel.SERIALIZABLE)
PATIENCE = 20.0


@contextmanager
def process(folder: Path) -> Generator[subprocess.Popen[str]]:
    """Another process that makes the call `1` on the journal in that folder; it is ended when the block is left."""
    command = [sys.executable, "-W", "error", "-m", "tests.fundamentals.cache_driver", str(folder)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def said(started: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert started.stdout is not None
    return started.stdout.readline().strip()


def tell(started: subprocess.Popen[str]) -> None:
    """Let its task go on."""
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


class Body:
    """What a task does: it says that it has begun, and goes on when it is let."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, x: int) -> int:
        self.calls.append(x)
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE)
        return len(self.calls)


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """Each store, empty."""
    made: Journal = MemoryJournal(KEY) if request.param == "memory" else SqliteJournal(tmp_path / "j.db", KEY)
    yield made
    made.close()


class Waiting:
    """Tells when somebody has found the key taken."""

    def __init__(self, journal: Journal) -> None:
        self.found = threading.Semaphore(0)
        self._real = journal.lock_key
        self._journal = journal

    def __enter__(self) -> Self:
        self._journal.lock_key = self._lock
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.lock_key = self._real

    def _lock(self, lock: CacheLock, around: Any = ()) -> CacheLock | None:
        holder = self._real(lock, around)
        if holder not in (lock, None):
            self.found.release()
        return holder

    def one(self) -> None:
        """Wait until another call waits."""
        assert self.found.acquire(timeout=PATIENCE)


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do it beside; the result is what the returned function gives."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE)
        return box[0]

    return result


def test_two_runs_at_once_make_one_call(journal: Journal) -> None:
    """The second waits, and gets the result of the first as a hit of its own."""
    body = Body()
    work = task(cache_policy=ALONE, name="work")(body)
    run = flow(name="run")(lambda: work(1))
    with Waiting(journal) as waiting:
        first = in_thread(lambda: start(run, journal=journal))
        assert body.begun.acquire(timeout=PATIENCE)
        second = in_thread(lambda: start(run, journal=journal))
        waiting.one()
        body.go.release()
        outcomes = [first(), second()]
    assert [outcome.value for outcome in outcomes] == [1, 1]
    assert [outcome.tally.cached for outcome in outcomes] == [0, 1]
    assert body.calls == [1]


def test_other_arguments_do_not_wait(journal: Journal) -> None:
    """It is the key that is computed by one call at a time, not the task."""
    both = threading.Barrier(2, timeout=PATIENCE)

    @task(cache_policy=ALONE)
    def meet(x: int) -> int:
        both.wait()
        return x

    @flow
    def run() -> list[int]:
        futures = [meet.submit(x) for x in (1, 2)]
        return [future.result() for future in futures]

    assert start(run, journal=journal).value == [1, 2]


@pytest.mark.parametrize("workers", [1, 16])
def test_the_threads_of_one_run_make_one_call(journal: Journal, workers: int) -> None:
    """However few of them there are: who waits leaves its place to the others."""
    calls: list[int] = []

    @task
    def inner(x: int) -> int:
        calls.append(x)
        return x

    @task(cache_policy=ALONE)
    def work(x: int) -> int:
        return inner.submit(x).result()

    @flow
    def run() -> list[int]:
        futures = [work.submit(1) for _ in range(5)]
        return [future.result() for future in futures]

    outcome = start(run, journal=journal, using=options(max_workers=workers))
    assert outcome.value == [1] * 5
    assert (calls, outcome.tally.cached) == ([1], 4)


def test_the_branches_of_one_loop_make_one_call(journal: Journal) -> None:
    """And the loop goes on while they wait."""
    calls: list[int] = []

    @flow
    async def run() -> list[int]:
        go = asyncio.Event()

        @task(cache_policy=ALONE)
        async def work(x: int) -> int:
            calls.append(x)
            await go.wait()
            return x

        async def let() -> int:
            for _ in range(50):
                await asyncio.sleep(0)
            go.set()
            return 0

        return list(await asyncio.gather(work(1), work(1), let(), work(1)))

    outcome = start(run, journal=journal)
    assert outcome.value == [1, 1, 0, 1]
    assert (calls, outcome.tally.cached) == ([1], 2)


def test_a_thousand_branches_make_one_call() -> None:
    """Those that waited take the result without asking for the key again."""
    journal = MemoryJournal(KEY)
    calls: list[int] = []

    @task(cache_policy=ALONE)
    async def work(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(0)
        return x

    @flow
    async def run() -> int:
        return sum(await asyncio.gather(*[work(1) for _ in range(1000)]))

    assert start(run, journal=journal).value == 1000
    assert calls == [1]


def test_if_the_first_fails_the_second_runs(journal: Journal) -> None:
    """An exception is never cached, so it is nobody else's."""
    body = Body()

    @task(cache_policy=ALONE)
    def work(x: int) -> int:
        if body(x) == 1:
            raise ValueError("the first")
        return x

    run = flow(name="run")(lambda: work(7))
    with Waiting(journal) as waiting:
        first = in_thread(lambda: start(run, journal=journal))
        assert body.begun.acquire(timeout=PATIENCE)
        second = in_thread(lambda: start(run, journal=journal))
        waiting.one()
        body.go.release(2)
        assert first().state is StateType.FAILED
        assert second().value == 7
    assert body.calls == [7, 7]


def test_retries_keep_the_key() -> None:
    """Who waits, waits for the last attempt."""
    journal, body = MemoryJournal(KEY), Body()

    @task(cache_policy=ALONE, retries=1)
    def work(x: int) -> int:
        if body(x) == 1:
            raise ValueError("the first")
        return x

    run = flow(name="run")(lambda: work(7))
    with Waiting(journal) as waiting:
        first = in_thread(lambda: start(run, journal=journal))
        assert body.begun.acquire(timeout=PATIENCE)
        second = in_thread(lambda: start(run, journal=journal))
        waiting.one()
        body.go.release(2)
        assert (first().value, second().value) == (7, 7)
    assert body.calls == [7, 7]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_task_that_calls_itself_with_the_same_arguments_does_not_wait_for_itself(colour: str) -> None:
    """The inner call belongs to the outer one, and runs."""
    journal = MemoryJournal(KEY)
    depth: list[int] = []

    @task(cache_policy=ALONE)
    def again(x: int) -> int:
        depth.append(x)
        return x if len(depth) > 2 else again(x) + 1

    @task(cache_policy=ALONE)
    async def again_async(x: int) -> int:
        depth.append(x)
        return x if len(depth) > 2 else await again_async(x) + 1

    if colour == "sync":
        outcome = start(flow(name="run")(lambda: again(1)), journal=journal)
    else:

        @flow
        async def run() -> int:
            return await again_async(1)

        outcome = start(run, journal=journal)
    assert (outcome.value, depth) == (3, [1, 1, 1])


def test_two_that_wait_for_each_other_do_not_wait_for_ever(journal: Journal) -> None:
    """One of them runs what the other computes, too, and the log says so."""
    both = threading.Barrier(2, timeout=PATIENCE)

    @task(cache_policy=ALONE)
    def visit(x: int, outer: int) -> int:
        if x != outer:
            return x
        both.wait()
        return 10 * x + visit(1 - x, outer)

    @flow
    def run() -> list[int]:
        futures = [visit.submit(x, x) for x in (0, 1)]
        return [future.result() for future in futures]

    outcome = start(run, journal=journal)
    assert outcome.state is StateType.COMPLETED, outcome
    assert sorted(outcome.value) in ([1, 11], [10, 10])
    assert any("waits, directly or not" in line for line in log_of(journal))


def test_a_sync_task_may_not_block_the_loop_of_its_flow() -> None:
    """It is told so at its first call, not only when there is somebody to wait for."""

    @task(cache_policy=ALONE)
    def work(x: int) -> int:
        return x

    @flow
    async def direct() -> int:
        return work(1)

    @flow
    async def submitted() -> int:
        return await work.submit(1)

    journal = MemoryJournal(KEY)
    outcome = start(direct, journal=journal)
    assert isinstance(outcome.error, ColourError)
    assert "submit" in str(outcome.error)
    assert start(submitted, journal=journal).value == 1


def test_a_waiting_run_can_be_cancelled(journal: Journal) -> None:
    """Sync, in its thread; whoever computes the key goes on."""
    body = Body()
    work = task(cache_policy=ALONE, name="work")(body)
    run = flow(name="run")(lambda: work(1))
    with Waiting(journal) as waiting:
        first = in_thread(lambda: start(run, journal=journal))
        assert body.begun.acquire(timeout=PATIENCE)
        second = in_thread(lambda: start(run, journal=journal))
        waiting.one()
        journal.request_cancel(last_run(journal), "enough")
        assert second().state is StateType.CANCELLED
        body.go.release()
        assert first().value == 1
    assert body.calls == [1]


def test_a_cancelled_branch_gives_the_key_back() -> None:
    """The next one runs."""
    calls: list[int] = []

    @flow
    async def run() -> int:
        begun = asyncio.Event()

        @task(cache_policy=ALONE)
        async def work(x: int) -> int:
            calls.append(x)
            begun.set()
            if len(calls) == 1:
                await asyncio.Event().wait()
            return x

        first = asyncio.create_task(call(work))
        await begun.wait()
        second = asyncio.create_task(call(work))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    async def call(work: Any) -> int:
        return await work(1)

    assert start(run, journal=MemoryJournal(KEY)).value == 1
    assert calls == [1, 1]


def test_a_run_that_left_memory_holds_no_key() -> None:
    """Its task waits for a person meanwhile; an equal call of another run is not held up, and the first replays."""
    journal = MemoryJournal(KEY)
    asks: list[bool] = [True]

    @task(cache_policy=ALONE)
    def work(x: int) -> str:
        return str(request_input("name", str).result()) if asks[0] else "nobody"

    run = flow(name="run")(lambda: work(1))
    paused = start(run, journal=journal)
    assert paused.state is StateType.PAUSED
    asks[0] = False
    assert start(run, journal=journal).value == "nobody"
    asks[0] = True
    answer(journal, Verdict.ANSWERED, "ann")
    assert resume(run, paused.run_id, journal).value == "nobody"


def test_refreshing_is_serialised_but_never_takes() -> None:
    """Of two that refresh at once both run, one after the other."""
    journal, body = MemoryJournal(KEY), Body()
    work = task(cache_policy=ALONE, name="work", refresh_cache=True)(body)
    run = flow(name="run")(lambda: work(1))
    with Waiting(journal) as waiting:
        first = in_thread(lambda: start(run, journal=journal))
        assert body.begun.acquire(timeout=PATIENCE)
        second = in_thread(lambda: start(run, journal=journal))
        waiting.one()
        body.go.release(2)
        assert [first().value, second().value] == [1, 2]
    assert body.calls == [1, 1]


def test_two_processes_make_one_call(tmp_path: Path) -> None:
    """The second waits for the first, and takes its result."""
    with process(tmp_path) as first:
        assert said(first) == "running"
        with process(tmp_path) as second:
            assert said(second) == "waiting"
            tell(first)
            assert [said(first), said(second)] == ["1 0", "1 1"]


def test_the_key_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """`kill -9` in the middle of the call: whoever waits for it runs it."""
    with process(tmp_path) as first:
        assert said(first) == "running"
        with process(tmp_path) as second:
            assert said(second) == "waiting"
            first.kill()
            first.wait()
            assert said(second) == "running"
            tell(second)
            assert said(second) == "1 0"
