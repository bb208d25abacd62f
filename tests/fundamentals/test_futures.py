"""Submitted and mapped tasks: futures, alone and inside of other values."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from agentflow import TaskFuture, flow, get_run_context, send_event, task, unmapped, wait_for_event
from agentflow.errors import AgentflowError, MappingLengthMismatch, MappingMissingIterable
from agentflow.model.states import StateType
from agentflow.states import Completed
from tests.fundamentals.lives import memory, options, resume, rows, start, value_of


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task
async def add_later(x: int, y: int = 1) -> int:
    await asyncio.sleep(0)
    return x + y


@task
def same(value: Any) -> Any:
    return value


@task
def fail(text: str) -> int:
    raise ValueError(text)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass
class Box:
    content: Any


WRAPS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "itself": (lambda future: future, 2),
    "lists": (lambda future: [1, [future]], [1, [2]]),
    "tuples": (lambda future: (future, 0), (2, 0)),
    "dicts": (lambda future: {"a": {"b": future}}, {"a": {"b": 2}}),
    "sets": (lambda future: {future}, {2}),
    "named tuples": (lambda future: Pair(future, 1), Pair(2, 1)),
    "dataclasses": (lambda future: Box([future]), Box([2])),
}


@pytest.mark.parametrize("wrapped", WRAPS)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_futures_among_the_arguments_become_their_values(wrapped: str, colour: str) -> None:
    """Alone, and inside of containers at any depth."""
    wrap, expected = WRAPS[wrapped]

    @flow
    def run() -> Any:
        return same.submit(wrap(add.submit(1))).result()

    @flow
    async def run_async() -> Any:
        return await same.submit(wrap(add_later.submit(1)))

    assert value_of(run if colour == "sync" else run_async) == expected


def test_futures_that_a_flow_or_task_returns_become_their_values() -> None:
    """What is returned is resolved, also inside of containers."""

    @task
    def inner() -> Any:
        return [add.submit(1)]

    @flow
    def run() -> Any:
        return {"a": [add.submit(5)], "b": inner()}

    assert value_of(run) == {"a": [6], "b": [2]}


def test_map_keeps_the_order_of_its_items() -> None:
    """One future per item, in the items' order, whichever ends first."""
    first_may_end = threading.Event()

    @task
    def ordered(x: int) -> int:
        if x == 0:
            first_may_end.wait(5)
        else:
            first_may_end.set()
        return x

    @flow
    def run() -> list[int]:
        return [future.result() for future in ordered.map([0, 1])]

    assert value_of(run) == [0, 1]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: add.map([]), [], id="nothing"),
        pytest.param(lambda: add.map([1, 2], y=unmapped(10)), [11, 12], id="unmapped"),
        pytest.param(lambda: add.map([1, 2], 10), [11, 12], id="a constant"),
        pytest.param(lambda: add.map([1, 2], y=[5, 6]), [6, 8], id="two columns"),
        pytest.param(lambda: add.map(range(2)), [1, 2], id="range"),
        pytest.param(lambda: add.map(item for item in (1, 2)), [2, 3], id="generator"),
        pytest.param(lambda: add.map({1: "a", 2: "b"}), [2, 3], id="keys of a dict"),
        pytest.param(lambda: add.map([add.submit(1), 5]), [3, 6], id="futures"),
        pytest.param(lambda: add.map(same.submit([1, 2])), [2, 3], id="a future of a list"),
        pytest.param(lambda: add.map(Completed(data=[1, 2])), [2, 3], id="a state of a list"),
        pytest.param(lambda: add.map([Completed(data=1), 5]), [2, 6], id="states"),
        pytest.param(lambda: same.map(["ab"]), ["ab"], id="strings"),
        pytest.param(lambda: same.map([unmapped]), [unmapped], id="a class"),
    ],
)
def test_map_takes_iterables_and_constants(make: Any, expected: Any) -> None:
    """Iterables are taken apart; strings, and what `unmapped` wraps, are constants."""

    @flow
    def run() -> Any:
        return [future.result() for future in make()]

    assert value_of(run) == expected


def test_map_refuses_what_it_cannot_take_apart() -> None:
    """No iterable, or several of different lengths: an error that names the way out."""

    @flow
    def run() -> list[str]:
        found: list[str] = []
        for make, kind in (
            (lambda: add.map(1), MappingMissingIterable),
            (lambda: same.map("text"), MappingMissingIterable),
            (lambda: add.map([1, 2], [1]), MappingLengthMismatch),
        ):
            with pytest.raises(kind, match="unmapped") as caught:
                make()
            assert isinstance(caught.value, ValueError)
            found.append(str(caught.value))
        return found

    none, text, lengths = value_of(run)
    assert "no iterable" in none
    assert "no iterable" in text
    assert "[1, 2]" in lengths


def test_map_of_async_tasks_is_bounded() -> None:
    """At most `map_concurrency` calls of one map are in flight."""
    running = most = 0

    @task
    async def counted(x: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return x

    @flow
    async def run() -> list[int]:
        return [await future for future in counted.map(range(20))]

    assert value_of(run, using=options(map_concurrency=3)) == list(range(20))
    assert most == 3


def test_a_failed_future_raises_where_its_result_is_asked_for() -> None:
    """`result` raises, `exception` and `raise_on_failure=False` return it; each of them counts as looking."""

    @flow
    def run() -> list[Any]:
        future = fail.submit("x")
        with pytest.raises(ValueError, match="x"):
            future.result()
        second, third = fail.submit("y"), fail.submit("z")
        return [repr(second.exception()), repr(third.result(raise_on_failure=False)), future.done()]

    assert value_of(run) == ["ValueError('y')", "ValueError('z')", True]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_failure_that_nobody_looked_at_fails_the_flow(colour: str) -> None:
    """An un-awaited failure is never silent."""

    @flow
    def run() -> int:
        fail.submit("unseen")
        return 1

    @flow
    async def run_async() -> int:
        fail.submit("unseen")
        return 1

    outcome = start(run if colour == "sync" else run_async)
    assert outcome.state is StateType.FAILED
    assert repr(outcome.error) == "ValueError('unseen')"


def test_a_task_ends_after_what_it_has_submitted_and_fails_with_it() -> None:
    """The failure belongs to the task that submitted, in every life alike: its caller can catch it."""

    @task
    def parent() -> int:
        fail.submit("inner")
        return 1

    @flow
    def run() -> str:
        try:
            return str(parent())
        except ValueError as error:
            return f"caught {error}"

    journal = memory()
    assert start(run, journal=journal).value == "caught inner"
    assert [row.name for row in rows(journal, "failed")] == ["fail", "parent"]


def test_a_failed_argument_fails_what_was_to_take_it() -> None:
    """The failure goes on to whoever asks for the result; the task itself never runs."""
    ran: list[int] = []

    @task
    def takes(x: int) -> int:
        ran.append(x)
        return x

    submit: Any = takes.submit  # futures stand for values, which types cannot say

    @flow
    def run() -> str:
        return repr(submit(fail.submit("x")).exception())

    assert value_of(run) == "ValueError('x')"
    assert ran == []


def test_results_have_timeouts() -> None:
    """TimeoutError after so many seconds, zero polls, a negative one is an error; the task goes on."""
    go = threading.Event()

    @task
    def slow() -> int:
        go.wait(5)
        return 7

    @flow
    def run() -> int:
        future = slow.submit()
        with pytest.raises(ValueError, match="negative"):
            future.result(timeout=-1)
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
        assert future.wait(0.001) is False
        go.set()
        assert future.wait() is True
        return future.result()

    assert value_of(run) == 7


def test_a_task_that_ended_with_a_timeout_error_has_ended() -> None:
    """`wait` tells its own patience from the task's exception."""

    @task
    def late() -> int:
        raise TimeoutError

    @flow
    def run() -> bool:
        future = late.submit()
        ended = future.wait(5)
        future.exception()
        return ended

    assert value_of(run) is True


def test_whoever_awaits_a_future_may_give_up_on_it() -> None:
    """A cancelled await leaves the task as it is; it can be awaited again."""
    go = threading.Event()

    @task
    def slow() -> int:
        go.wait(5)
        return 7

    @flow
    async def run() -> int:
        future = slow.submit()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)
        go.set()
        return await future

    assert value_of(run) == 7


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_submits_do_not_deadlock(workers: int) -> None:
    """A thread that blocks on a future leaves its place to others."""

    @task
    def tree(depth: int) -> int:
        if not depth:
            return 1
        return sum(future.result() for future in tree.map([depth - 1, depth - 1]))

    @flow
    def run() -> int:
        return tree.submit(5).result()

    assert value_of(run, using=options(max_workers=workers)) == 32


def test_a_chain_of_dependent_submits_needs_no_threads_to_wait() -> None:
    """With one worker, a hundred tasks that each wait for the one before come to an end."""

    @flow
    def run() -> int:
        future: Any = add.submit(0)
        for _ in range(100):
            future = add.submit(future)
        return future.result()

    assert value_of(run, using=options(max_workers=1)) == 101


def test_a_thread_that_waits_durably_leaves_its_place_to_others() -> None:
    """With one worker, a waiting task does not keep the one that will wake it from running."""
    journal = memory()

    @task
    def asks() -> Any:
        return wait_for_event("go").result()

    @task
    def sends() -> None:
        send_event(get_run_context().run_id, "go", 5, journal=journal)

    @flow
    def run() -> Any:
        asked = asks.submit()
        sends.submit()
        return asked.result()

    assert start(run, journal=journal, using=options(max_workers=1, suspend=False)).value == 5


def test_at_most_so_many_threads_of_a_run_work_at_once() -> None:
    """`max_workers` bounds the bodies of a run that execute in threads."""
    lock = threading.Lock()
    running = most = 0

    @task
    def work(x: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return x

    @flow
    def run() -> int:
        return len([future.result() for future in work.map(range(50))])

    assert value_of(run, using=options(max_workers=2)) == 50
    assert most <= 2


def test_context_variables_reach_the_threads() -> None:
    """A submitted task sees what its caller saw."""
    from contextvars import ContextVar  # noqa: PLC0415 - belongs to this test only

    variable: ContextVar[str] = ContextVar("variable")

    @task
    def look() -> str:
        return variable.get()

    @flow
    def run() -> str:
        variable.set("seen")
        return look.submit().result()

    assert value_of(run) == "seen"


def test_a_future_is_a_name_and_a_state() -> None:
    """Its representation says which task, and whether it has ended."""

    @flow
    def run() -> str:
        future: TaskFuture[int] = add.submit(1)
        future.wait()
        return repr(future)

    assert value_of(run) == "<TaskFuture add done>"


def test_waiting_inside_a_submitted_effect_is_refused() -> None:
    """A side effect may not wait durably, in whatever thread."""

    @task(side_effect=True)
    def pay() -> Any:
        return wait_for_event("go").result()

    @flow
    def run() -> str:
        return repr(pay.submit().exception())

    assert AgentflowError.__name__ in value_of(run)


def test_a_large_value_is_read_from_the_journal_and_a_small_one_is_kept() -> None:
    """A future is a handle: what takes more than a kilobyte stays in the journal until somebody asks."""

    @task
    def text(size: int) -> list[str]:
        return ["x" * size]

    @flow
    def run() -> list[bool]:
        small, large = text.submit(10), text.submit(10_000)
        same = small.result() is small.result(), large.result() is large.result()
        return [*same, large.result() == ["x" * 10_000]]

    assert value_of(run) == [True, False, True]


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "goes well"])
def test_the_results_of_a_map_fail_at_the_first_failure_that_is_there(fails: bool) -> None:
    """`result()` of a map gives all values, or raises a failure even while slower calls go on."""
    may_end = threading.Event()

    @task
    def work(x: int) -> int:
        if x == 0 and fails:
            may_end.wait(5)
        if x == 1 and fails:
            raise ValueError(x)
        return x

    @flow
    def run() -> Any:
        futures = work.map([0, 1, 2])
        try:
            return futures.result()
        except ValueError as error:
            early = not futures[0].done()
            return [str(error), early]
        finally:
            may_end.set()

    assert value_of(run) == (["1", True] if fails else [0, 1, 2])


def test_the_futures_of_a_map_can_be_awaited_together() -> None:
    """In an async flow a map is awaited as one."""

    @task
    async def double(x: int) -> int:
        return 2 * x

    @flow
    async def run() -> list[int]:
        return await double.map([1, 2, 3])

    assert value_of(run) == [2, 4, 6]


def test_a_timeout_of_a_map_is_one_for_all() -> None:
    """Whoever waits for several futures waits that long in all; what is late is counted."""
    may_end = threading.Event()

    @task
    def late(x: int) -> bool:
        return may_end.wait(5)

    @flow
    def run() -> list[Any]:
        futures = late.map([1, 2])
        with pytest.raises(TimeoutError, match="2 of 2"):
            futures.result(timeout=0)
        with pytest.raises(ValueError, match="negative"):
            futures.wait(timeout=-1)
        waited = futures.wait(timeout=0)
        may_end.set()
        return [waited, futures.wait(), futures.result()]

    assert value_of(run) == [False, True, [True, True]]


def test_calls_of_a_map_that_wait_lend_their_places() -> None:
    """More calls of one map than may run at once wait for events: each of them gets to ask."""

    @task
    async def ask(x: int) -> Any:
        return await wait_for_event(f"event {x}")

    @flow
    async def run() -> int:
        await ask.map(range(6))
        return 6

    journal = memory()
    outcome = start(run, journal=journal, using=options(map_concurrency=2))
    assert outcome.state is StateType.PAUSED
    assert sorted(wait.name for wait in outcome.waiting_for) == [f"event {x}" for x in range(6)]
    for x in range(6):
        send_event(outcome.run_id, f"event {x}", journal=journal)
    assert resume(run, outcome.run_id, journal, options(map_concurrency=2)).value == 6


def test_submits_that_submit_do_not_deadlock() -> None:
    """A thread that waits for what it has submitted lends its place, however deep."""

    @task
    def deeper(depth: int) -> int:
        return depth if depth == 33 else deeper.submit(depth + 1).result()

    @flow
    def run() -> int:
        return deeper.submit(0).result()

    assert value_of(run, using=options(max_workers=1)) == 33
