"""What is the same on every cluster: values, failures, context, timeouts, cancelling, later lives."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from agentflow import INPUTS, TaskTimeoutError, flow, task
from agentflow.errors import CodecError, MissingContextError, NotSent, WorkerDied
from agentflow.flows import Flow
from agentflow.model.states import StateType
from agentflow.task_runners import TaskRunner
from tests.fundamentals.bodies import (
    LANGUAGE,
    Refused,
    asks_for,
    calls_others,
    context,
    exits,
    language,
    locked,
    refused,
    refused_with_a_lock,
    square,
    square_async,
    takes,
    talks,
    where,
)
from tests.fundamentals.lives import Death, die, last_run, log_of, memory, options, resume, rows, start


def run_with(runner: TaskRunner, body: Any, journal: Any = None, **settings: Any) -> Any:
    """The value of a flow with that task runner."""
    outcome = start(
        Flow(body, name="run", task_runner=runner),
        journal=journal or memory(),
        using=options(suspend=False, **settings),
    )
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_bodies_run_on_the_cluster_and_their_steps_are_the_flows(runner: TaskRunner, colour: str) -> None:
    """Submitted and mapped, sync and async, with futures among the arguments; each is a step of the journal."""

    def run() -> list[Any]:
        mapped = [future.result() for future in square.map([1, 2, 3])]
        later = square.submit(cast("Any", square_async.submit(2))).result()
        return [*mapped, later, where.submit().result() == os.getpid()]

    async def run_async() -> list[Any]:
        mapped = await asyncio.gather(*square.map([1, 2, 3]))
        later = await square.submit(cast("Any", square_async.submit(2)))
        return [*mapped, later, await where.submit() == os.getpid()]

    journal = memory()
    assert run_with(runner, run if colour == "sync" else run_async, journal) == [1, 4, 9, 16, False]
    assert [row.event for row in rows(journal, name="square")] == ["completed"] * 4


def test_failures_come_back_typed_and_what_cannot_be_sent_says_so(runner: TaskRunner) -> None:
    """The same classes and messages as with a process pool."""

    def run() -> list[Any]:
        submitted = (
            refused.submit(),
            refused_with_a_lock.submit(),
            locked.submit(),
            takes.submit(cast("Any", threading.Lock())),
            exits.submit(3),
        )
        kept.extend(future.exception() for future in submitted)
        return [square.submit(5).result()]

    kept: list[Any] = []
    assert run_with(runner, run) == [25]
    own, held, returned, given, died = kept
    assert isinstance(own, Refused)
    assert (own.code, own.where) == (7, "the gate")
    assert "in refused" in str(own.__cause__)
    assert repr(held).startswith("StepFailed('Unpicklable: holds a lock'")
    assert isinstance(returned, CodecError)
    assert isinstance(given, NotSent)
    assert isinstance(died, WorkerDied)


def test_a_large_argument_is_sent(runner: TaskRunner) -> None:
    """Some megabytes are no reason for a warning."""
    data = bytes(12_000_000)

    @task
    def length(content: bytes) -> int:
        return len(content)

    assert run_with(runner, lambda: length.submit(data).result()) == 12_000_000


def test_context_and_lines_arrive(runner: TaskRunner) -> None:
    """Context variables go there, log lines and prints come back; other tasks are plain calls."""

    def run() -> tuple[Any, ...]:
        LANGUAGE.set("German")
        talks.submit()
        return (
            language.submit().result(),
            context.submit().result()[:3],
            calls_others.submit(2).result(),
            type(asks_for.submit("an effect").exception()) is MissingContextError,
        )

    journal = memory()
    assert run_with(runner, run, journal) == ("German", ("run", "context", 1), 8, True)
    assert [text for text in log_of(journal) if text in ("printed 1", "logged 2")] == [
        "printed 1",
        "logged 2",
    ]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_timeout_holds(runner: TaskRunner, colour: str) -> None:
    """The limit counts from when a worker begins, and the error names it."""

    @task(timeout_seconds=0.2)
    def slow() -> None:
        threading.Event().wait(1)

    @task(timeout_seconds=0.2)
    async def slow_async() -> None:
        await asyncio.Event().wait()

    late: Any = slow if colour == "sync" else slow_async
    with pytest.raises(TaskTimeoutError, match=r"ran past its timeout of 0\.2 s"):
        run_with(runner, lambda: late.submit().result())


def test_a_failed_body_is_retried_by_the_engine(runner: TaskRunner, tmp_path: Path) -> None:
    """Attempts are the journal's, wherever they run."""

    @task(retries=2)
    def fails_twice(folder: Path) -> int:
        with (folder / "calls").open("a") as file:
            file.write("x")
        calls = len((folder / "calls").read_text())
        if calls < 3:
            message = "not yet"
            raise ValueError(message)
        return calls

    journal = memory()
    assert run_with(runner, lambda: fails_twice.submit(tmp_path).result(), journal) == 3
    assert [row.event for row in rows(journal)] == ["attempt", "attempt", "completed"]


def test_cancelling_a_run_does_not_wait_for_its_bodies(runner: TaskRunner, tmp_path: Path) -> None:
    """What they would still give is refused."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    journal = memory()

    @task
    def waits(path: Path) -> None:
        path.write_text("begun")
        threading.Event().wait(3)

    def person() -> None:
        fifo.read_text()
        journal.request_cancel(last_run(journal), "enough")

    @flow(task_runner=runner)
    def run() -> None:
        waits.submit(fifo).result()

    thread = threading.Thread(target=person)
    thread.start()
    outcome = start(run, journal=journal, using=options(suspend=False))
    thread.join()
    assert outcome.state is StateType.CANCELLED
    assert rows(journal, name="waits") == []


def test_a_later_life_reuses_what_the_cluster_has_done(runner: TaskRunner) -> None:
    """The cluster holds nothing that the journal does not: threads go on where it stopped."""
    lives: list[int] = []
    journal = memory()

    def run() -> list[int]:
        done = [future.result() for future in square.map([1, 2, 3])]
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return done

    using = options(suspend=False)
    run_id = die(Flow(run, task_runner=runner), journal=journal, using=using)
    outcome = resume(Flow(run), run_id, journal, using)
    assert (outcome.value, outcome.tally.reused, outcome.tally.executed) == ([1, 4, 9], 3, 0)


def test_a_cached_result_is_found_without_the_cluster(runner: TaskRunner) -> None:
    """The second run takes what the first one has computed."""

    @task(cache_policy=INPUTS)
    def scaled(x: int) -> int:
        return 3 * x

    journal = memory()
    assert run_with(runner, lambda: scaled.submit(2).result(), journal) == 6
    assert run_with(runner, lambda: scaled.submit(2).result(), journal) == 6
    assert [row.event for row in journal.steps(2)] == ["cached"]


def test_a_side_effect_is_never_begun_twice(runner: TaskRunner, tmp_path: Path) -> None:
    """Not even where a cluster repeats what a lost worker had begun: its end is in doubt, or it ran with the flow."""

    @task(side_effect=True)
    def pays(folder: Path, owner: int) -> str:
        with (folder / "paid").open("a") as file:
            file.write("x")
        if os.getpid() == owner:
            return "at home"
        os._exit(3)

    def run() -> str:
        future = pays.submit(tmp_path, os.getpid())
        error = future.exception()
        return future.result() if error is None else type(error).__name__

    assert run_with(runner, run) in ("at home", "WorkerDied")
    assert (tmp_path / "paid").read_text() == "x"


def test_a_thousand_bodies_need_no_thousand_threads(runner: TaskRunner) -> None:
    """They are in flight, not in threads of this process."""
    most: list[int] = []

    def run() -> int:
        futures = square.map(range(1000))
        most.append(threading.active_count())
        return sum(future.result() for future in futures)

    assert run_with(runner, run) == sum(x * x for x in range(1000))
    assert most[0] < 100
