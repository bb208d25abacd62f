"""Generators as tasks and flows: lazy, recorded when they have ended, given again on replay without running."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Any, cast

import orjson
import pytest

from agentflow import TaskTimeoutError, flow, get_run_context, scope, send_event, tags, task, wait_for_event
from agentflow.errors import DefinitionError, MissingContextError, ParameterError, UpstreamFailed
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.states import StateType
from agentflow.views import steps_of
from tests.fundamentals.lives import (
    Death,
    always,
    die,
    log_of,
    memory,
    resume,
    rows,
    start,
    value_of,
)


class Life:
    """What ran, and whether this is the first life."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.first = True

    def end(self) -> None:
        """The first life ends here."""
        if self.first:
            self.first = False
            raise Death


@task
def count(n: int) -> Iterator[int]:
    yield from range(n)


@task
async def count_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0)
        yield number


def consumer(
    colour: str,
    streams: tuple[Any, Any],
    each: Callable[[list[Any]], object] = len,
    last: Callable[[], object] = list,
) -> Any:
    """A flow that takes the items of a sync or async generator task, and notes its failure.

    `each` is shown the items so far, whenever there is one more; `last` is called in the end.
    """
    sync, later = streams

    @flow
    def run() -> list[Any]:
        found: list[Any] = []
        try:
            for item in sync():
                found.append(item)
                each(found)
        except (ValueError, TaskTimeoutError) as error:
            found.append(type(error).__name__)
        last()
        return found

    @flow
    async def run_async() -> list[Any]:
        found: list[Any] = []
        try:
            async for item in later():
                found.append(item)
                each(found)
        except (ValueError, TaskTimeoutError) as error:
            found.append(type(error).__name__)
        last()
        return found

    return run if colour == "sync" else run_async


# -- lazy
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_items_reach_the_consumer_as_they_are_produced(colour: str) -> None:
    """The body goes on only when the next item is asked for, and is recorded when it has ended."""
    seen: list[str] = []

    @task
    def letters() -> Iterator[str]:
        for letter in "ab":
            seen.append(f"made {letter}")
            yield letter

    @task
    async def letters_async() -> AsyncIterator[str]:
        for letter in "ab":
            await asyncio.sleep(0)
            seen.append(f"made {letter}")
            yield letter

    run = consumer(colour, (letters, letters_async), lambda found: seen.append(f"got {found[-1]}"))
    journal = memory()
    assert start(run, journal=journal).value == ["a", "b"]
    assert seen == ["made a", "got a", "made b", "got b"]
    (row,) = rows(journal)
    assert (row.event, row.value) == ("completed", b'["a","b"]')


def test_outside_of_a_flow_a_generator_task_is_the_plain_function() -> None:
    """Nothing is recorded, nothing is needed."""
    assert list(count(3)) == [0, 1, 2]

    async def collect() -> list[int]:
        return [item async for item in count_async(3)]

    assert asyncio.run(collect()) == [0, 1, 2]


def test_a_sync_generator_can_be_consumed_in_an_async_flow() -> None:
    """Colour belongs to the function."""

    @flow
    async def run() -> list[int]:
        return [*count(2), *[item async for item in count_async(2)]]

    assert value_of(run) == [0, 1, 0, 1]


def test_submitted_and_mapped_generators_are_lists() -> None:
    """`submit` and `map` consume them; from sync and async flows."""

    @flow
    def run() -> list[Any]:
        futures = [count.submit(2), count_async.submit(3), *count.map([1, 2]), *count_async.map([1, 2])]
        return [future.result() for future in futures]

    @flow
    async def run_async() -> list[Any]:
        futures = [count.submit(2), count_async.submit(3), *count.map([1, 2]), *count_async.map([1, 2])]
        return [await future for future in futures]

    expected = [[0, 1], [0, 1, 2], [0], [0, 1], [0], [0, 1]]
    assert value_of(run) == value_of(run_async) == expected


def test_the_value_of_a_generator_is_kept() -> None:
    """`x = yield from task()` gets what the body returns, in each life."""
    life = Life()

    @task
    def numbers() -> Generator[int, None, dict[str, int]]:
        life.ran.append("numbers")
        yield 1
        yield 2
        return {"sum": 3}

    @task
    def doubled() -> Generator[int, None, str]:
        found = yield from numbers()
        return f"sum {found['sum']}"

    def consume() -> Generator[int, None, list[Any]]:
        found = yield from doubled()
        return [found]

    @flow
    def run() -> list[Any]:
        steps = consume()
        items: list[Any] = []
        while True:
            try:
                items.append(next(steps))
            except StopIteration as stop:
                life.end()
                return [*items, stop.value]

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [1, 2, ["sum 3"]]
    assert life.ran == ["numbers"]


def test_a_consumer_may_send_and_throw() -> None:
    """What it sends is what `yield` gives; what it throws is raised there."""

    @task
    def echo() -> Generator[Any, Any, None]:
        given: Any = "start"
        while True:
            try:
                given = yield given
            except ValueError as error:
                given = f"caught {error}"

    @task
    async def echo_async() -> AsyncGenerator[Any, Any]:
        given: Any = "start"
        while True:
            try:
                given = yield given
            except ValueError as error:
                given = f"caught {error}"

    @flow
    async def run() -> list[Any]:
        one = echo()
        other = echo_async()
        found = [next(one), one.send(5), one.throw(ValueError("x")), one.send(None)]
        found += [await anext(other), await other.asend(5), await other.athrow(ValueError("x"))]
        one.close()
        await other.aclose()
        with pytest.raises(StopIteration):
            next(one)
        with pytest.raises(StopAsyncIteration):
            await anext(other)
        return found

    assert value_of(run) == ["start", 5, "caught x", None, "start", 5, "caught x"]


def test_sending_before_the_start_and_asking_twice_at_once_are_errors() -> None:
    """As with Python's own generators."""

    @task
    def own() -> Generator[Any, Any, None]:
        yield next(holder[0])

    holder: list[Any] = []

    @flow
    def run() -> None:
        fresh: Any = count(1)
        with pytest.raises(TypeError, match="just-started"):
            fresh.send(1)
        with pytest.raises(KeyError):
            fresh.throw(KeyError("x"))
        assert list(fresh) == []
        holder.append(own())
        with pytest.raises(ValueError, match="already executing"):
            next(holder[0])

    value_of(run)


# -- what is recorded
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_finished_generator_is_not_run_again(colour: str) -> None:
    """A later life gets the recorded items, one by one."""
    life = Life()

    @task
    def items() -> Iterator[list[int]]:
        for number in range(3):
            life.ran.append(number)
            yield [number]

    @task
    async def items_async() -> AsyncIterator[list[int]]:
        for number in range(3):
            await asyncio.sleep(0)
            life.ran.append(number)
            yield [number]

    run, journal = consumer(colour, (items, items_async), last=life.end), memory()
    run_id = die(run, journal=journal)
    outcome = resume(run, run_id, journal)
    assert outcome.value == [[0], [1], [2]]
    assert (outcome.tally.reused, outcome.tally.executed) == (1, 0)
    assert life.ran == [0, 1, 2]


@pytest.mark.parametrize("how", ["closed", "left"])
def test_a_generator_that_its_consumer_left_gives_the_same_items_again(how: str) -> None:
    """Closed, or left by `break`: the items so far are recorded, and its `finally` has run at once."""
    life = Life()

    @task
    def endless() -> Iterator[int]:
        try:
            for number in range(1_000_000):
                life.ran.append(number)
                yield number
        finally:
            life.ran.append("finally")

    @flow
    def closed() -> int:
        with closing(cast("Generator[int]", endless())) as stream:
            found = next(stream) + next(stream) + next(stream)
        found += after(10)
        life.end()
        return found

    @flow
    def left() -> int:
        found = 0
        for number in endless():
            found += number
            if number == 2:
                break
        life.ran.append("left") if life.first else None
        found += after(10)
        life.end()
        return found

    run, journal = (closed if how == "closed" else left), memory()
    run_id = die(run, journal=journal)
    check_closed(journal, "endless")
    assert resume(run, run_id, journal).value == 13
    assert life.ran == [0, 1, 2, "finally", *(["left"] if how == "left" else [])]


@pytest.mark.parametrize("how", ["closed", "left"])
def test_an_async_generator_that_its_consumer_left_gives_the_same_items_again(how: str) -> None:
    """Closed, or left by `break`: then it ends as soon as the loop comes to it."""
    life = Life()

    @task
    async def endless() -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                life.ran.append(number)
                yield number
        finally:
            await asyncio.sleep(0)
            life.ran.append("finally")

    @flow
    async def run() -> int:
        found = 0
        stream = cast("AsyncGenerator[int]", endless())
        async for number in stream:
            found += number
            if number == 2:
                break
        if how == "closed":
            await stream.aclose()
        del stream
        found += await wait_a_moment()
        life.end()
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    check_closed(journal, "endless")
    assert resume(run, run_id, journal).value == 13
    assert life.ran == [0, 1, 2, "finally"]


@task
def after(x: int) -> int:
    return x


@task
async def wait_a_moment() -> int:
    for _ in range(100):
        await asyncio.sleep(0)
    return 10


def check_closed(journal: Journal, name: str) -> None:
    (row,) = rows(cast("Any", journal), "completed", name=name)
    assert orjson.loads(row.detail or b"") == {"closed": 3}


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_under_way_at_the_crash_runs_again(colour: str) -> None:
    """From its beginning; the tasks it calls are found again."""
    life = Life()

    @task
    def look_up(x: int) -> int:
        life.ran.append(x)
        return x

    @task
    def items() -> Iterator[int]:
        for number in range(3):
            yield look_up(number)

    @task
    async def items_async() -> AsyncIterator[int]:
        for number in range(3):
            yield look_up(number)

    def each(found: list[int]) -> None:
        if found == [0, 1]:
            life.end()

    run, journal = consumer(colour, (items, items_async), each), memory()
    run_id = die(run, journal=journal)
    assert rows(journal, "completed", name="look_up") != []
    assert [row for row in rows(journal, "completed") if row.name != "look_up"] == []
    assert resume(run, run_id, journal).value == [0, 1, 2]
    assert life.ran == [0, 1, 2]


def test_more_than_was_recorded_runs_the_body_again() -> None:
    """Changed code may want more items of a generator that was closed: the recorded ones are not given twice."""
    life = Life()
    wanted = [2]

    @task
    def endless() -> Iterator[int]:
        number = 0
        while True:
            life.ran.append(number)
            yield number
            number += 1

    @flow
    def run() -> list[int]:
        found: list[int] = []
        with closing(cast("Generator[int]", endless())) as stream:
            found.extend(next(stream) for _ in range(wanted[0]))
        life.end()
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    wanted[0] = 4
    life.first = True
    with pytest.raises(Death):
        resume(run, run_id, journal)
    assert life.ran == [0, 1, 0, 1, 2, 3]
    assert "closed after 2 items" in log_of(journal)[0]
    assert resume(run, run_id, journal).value == [0, 1, 2, 3]
    assert life.ran == [0, 1, 0, 1, 2, 3]


def test_items_are_what_a_later_life_would_read() -> None:
    """Each item is encoded when it is yielded: what the consumer does to it afterwards changes no record."""
    life = Life()
    shared: list[int] = []

    @task
    def growing() -> Iterator[list[int]]:
        for number in range(3):
            shared.append(number)
            yield shared

    @flow
    def run() -> list[list[int]]:
        found = list(growing())
        life.end()
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [[0], [0, 1], [0, 1, 2]]


def test_an_item_that_cannot_be_stored_fails_where_it_is_yielded() -> None:
    """With the ways out; `persist_result=False` is one: then the body runs again on resume."""
    life = Life()

    @task
    def locks() -> Iterator[Any]:
        yield threading.Lock()

    loose = locks.with_options(persist_result=False)

    @flow
    def strict() -> list[Any]:
        return list(locks())

    @flow
    def lax() -> int:
        found = len(list(loose()))
        life.ran.append(found)
        life.end()
        return found

    error = start(strict).error
    assert "persist_result=False" in str(error)
    journal = memory()
    run_id = die(lax, journal=journal)
    assert resume(lax, run_id, journal).value == 1
    assert rows(journal) == []


# -- whose calls are whose
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_calls_of_the_body_belong_to_it_and_those_of_the_consumer_do_not(colour: str) -> None:
    """Two generators that are consumed in turns keep their calls, tags and branches apart."""

    @task
    def call(who: str, number: int) -> list[Any]:
        context = get_run_context()
        return [who, number, context.step, sorted(context.tags)]

    @task
    def stream(who: str) -> Iterator[list[Any]]:
        with tags(who), scope(who):
            for number in range(2):
                yield call(who, number)

    @task
    async def stream_async(who: str) -> AsyncIterator[list[Any]]:
        with tags(who), scope(who):
            for number in range(2):
                await asyncio.sleep(0)
                yield call(who, number)

    @flow
    def run() -> list[Any]:
        found: list[Any] = []
        for a, b in zip(stream("a"), stream("b"), strict=True):
            found += [a, b, call("flow", len(found))]
        return found

    @flow
    async def run_async() -> list[Any]:
        found: list[Any] = []
        one, other = stream_async("a"), stream_async("b")
        async for a in one:
            b = await anext(other)
            found += [a, b, call("flow", len(found))]
        assert await anext(other, None) is None
        return found

    journal = memory()
    outcome = start(run if colour == "sync" else run_async, journal=journal)
    assert outcome.error is None
    assert [item[0] for item in outcome.value] == ["a", "b", "flow"] * 2
    assert [item[3] for item in outcome.value] == [["a"], ["b"], []] * 2
    (stored,) = journal.list_runs(RunFilter())
    steps = {step["id"]: step for step in steps_of(journal, stored)}
    parents = [
        (step["value"][0], steps[step["parent"]]["value"][0][0] if step["parent"] else "")
        for step in steps.values()
        if step["name"] == "call"
    ]
    assert sorted(parents) == sorted([("a", "a"), ("b", "b"), ("flow", "")] * 2)


def test_a_generator_may_be_consumed_by_another_task_or_thread() -> None:
    """Handed on, its body still belongs to its own call."""

    @task
    def inner(x: int) -> int:
        return x

    @task
    async def stream() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield inner(number)

    async def take(items: AsyncIterator[int]) -> int:
        return await anext(items)

    @flow
    async def run() -> list[int]:
        items = stream()
        first = await anext(items)
        second = await asyncio.create_task(take(items))
        return [first, second, *[item async for item in items]]

    journal = memory()
    assert start(run, journal=journal).value == [0, 1, 2]
    assert len(rows(journal, "completed")) == 4


# -- failures
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_retry_gives_all_items_again(colour: str) -> None:
    """The consumer sees those of each attempt; so does a later life, whether it has ended or not."""
    life = Life()

    def attempt() -> bool:
        life.ran.append(get_run_context().attempt)
        return get_run_context().attempt < 3

    @task(retries=2)
    def flaky() -> Iterator[int]:
        fails = attempt()
        yield 1
        yield 2
        if fails:
            raise ValueError

    @task(retries=2)
    async def flaky_async() -> AsyncIterator[int]:
        fails = attempt()
        yield 1
        yield 2
        if fails:
            raise ValueError

    def each(found: list[int]) -> None:
        if len(found) == 5:
            life.end()

    run, journal = consumer(colour, (flaky, flaky_async), each), memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [1, 2, 1, 2, 1, 2]
    assert life.ran == [1, 2, 3, 3]
    (row,) = rows(journal, "completed")
    assert row.value == b"[1,2,1,2,1,2]"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_failure_comes_after_the_items_before_it(colour: str) -> None:
    """In each life alike, with the exception of the body."""
    life = Life()

    @task
    def failing() -> Iterator[int]:
        life.ran.append("ran")
        yield 1
        yield 2
        raise ValueError("broken")

    @task
    async def failing_async() -> AsyncIterator[int]:
        life.ran.append("ran")
        yield 1
        yield 2
        raise ValueError("broken")

    run, journal = consumer(colour, (failing, failing_async), last=life.end), memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [1, 2, "ValueError"]
    assert life.ran == ["ran"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_timeout_strikes_between_items(colour: str) -> None:
    """It limits the body, not the consumer, who has had the items before and may take his time."""
    never = threading.Event()

    @task(timeout_seconds=0.05)
    def slow() -> Iterator[int]:
        yield 1
        never.wait(10)
        yield 2

    @task(timeout_seconds=0.05)
    async def slow_async() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()
        yield 2

    def patient(_: list[int]) -> None:
        never.wait(0.06)

    assert value_of(consumer(colour, (slow, slow_async), patient)) == [1, "TaskTimeoutError"]
    never.set()


def test_a_cancelled_consumer_leaves_no_end() -> None:
    """Cancelled while it waits for an item, it cancels the body; nothing is recorded of it."""
    seen: list[str] = []

    @task
    async def slow() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @flow
    async def run() -> list[int]:
        try:
            async with asyncio.timeout(0.01):
                return [item async for item in slow()]
        except TimeoutError:
            return []

    journal = memory()
    assert start(run, journal=journal).value == []
    assert seen == ["cancelled"]
    assert rows(journal) == []


# -- nobody asks for more
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_that_nobody_exhausts_does_no_harm(colour: str) -> None:
    """Never begun, half consumed, kept beyond the end of its flow: no warning, nothing hangs."""
    kept: list[Any] = []

    @flow
    def run() -> int:
        count(3)
        half = count(4)
        kept.extend([half, count(5)])
        return next(half) + next(half)

    @flow
    async def run_async() -> int:
        count_async(3)
        half = count_async(4)
        kept.extend([half, count_async(5)])
        return await anext(half) + await anext(half)

    assert value_of(run if colour == "sync" else run_async) == 1
    for stream in kept:
        with pytest.raises(MissingContextError, match="flow that has ended"):
            asyncio.run(_next(stream)) if colour == "async" else next(stream)
    kept.clear()
    gc.collect()


async def _next(stream: Any) -> Any:
    return await anext(stream)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_run_leaves_memory_although_a_generator_is_half_consumed(colour: str) -> None:
    """A generator that rests between two items moves nothing; it runs again when the run comes back."""

    @flow
    def run() -> list[int]:
        stream = count(3)
        found = [next(stream)]
        wait_for_event("go").result()
        return [*found, *stream]

    @flow
    async def run_async() -> list[int]:
        stream = count_async(3)
        found = [await anext(stream)]
        await wait_for_event("go")
        return [*found, *[item async for item in stream]]

    journal, chosen = memory(), run if colour == "sync" else run_async
    outcome = start(chosen, journal=journal)
    assert outcome.state is StateType.PAUSED
    send_event(outcome.run_id, "go", journal=journal)
    assert resume(chosen, outcome.run_id, journal).value == [0, 1, 2]


# -- what is returned, and what is yielded
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_returned_generator_is_consumed(colour: str) -> None:
    """By the task or flow that returns it, which it belongs to: its value is the list of the items."""

    @task
    def inner(x: int) -> str:
        return get_run_context().step + str(x)

    @task
    def returns() -> Any:
        return (inner(x) for x in range(2))

    @task
    def returns_task() -> Any:
        return count(2)

    @task
    async def returns_async() -> Any:
        return count_async(2)

    @flow
    def run() -> Any:
        found = [returns(), returns_task()]
        return (item for item in found)

    @flow
    async def run_async() -> Any:
        found = [await returns_async(), returns()]

        async def items() -> AsyncIterator[Any]:
            for item in found:
                yield item

        return items()

    expected = {
        "sync": [["inner0", "inner1"], [0, 1]],
        "async": [[0, 1], ["inner0", "inner1"]],
    }
    assert value_of(run if colour == "sync" else run_async) == expected[colour]


def test_a_yielded_generator_is_not_consumed() -> None:
    """It reaches the consumer as it is; the step cannot be recorded then, which the log says."""

    @task
    def nested() -> Iterator[Iterator[int]]:
        yield iter_of(2)
        yield iter_of(3)

    def iter_of(n: int) -> Iterator[int]:
        yield from range(n)

    @flow
    def run() -> list[list[int]]:
        return [list(item) for item in nested()]

    journal = memory()
    assert start(run, journal=journal).value == [[0, 1], [0, 1, 2]]
    assert rows(journal) == []
    assert "cannot be recorded" in log_of(journal)[0]


# -- asked for in other ways
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_has_no_state_before_its_items(colour: str) -> None:
    """`return_state` is refused, in a flow and outside; `submit` consumes the items first."""
    stream: Any = count if colour == "sync" else count_async

    @flow
    def run() -> list[Any]:
        with pytest.raises(ParameterError, match="yields items"):
            stream(2, return_state=True)
        return stream.submit(2, return_state=True).result()

    assert value_of(run) == [0, 1]
    with pytest.raises(ParameterError, match="yields items"):
        stream(2, return_state=True)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_takes_futures_and_waits_for_others(colour: str) -> None:
    """Futures among its arguments, and `wait_for`, are waited for when the first item is asked for."""
    seen: list[str] = []

    @task
    def before() -> int:
        seen.append("before")
        return 2

    @task
    def bad() -> int:
        raise ValueError

    def failing(upstream: Any) -> bool:
        upstream.wait()
        return isinstance(upstream.exception(), ValueError)

    @flow
    def run() -> list[int]:
        later, broken, stream = before.submit(), bad.submit(), cast("Any", count)
        found = list(stream(later, wait_for=[later]))
        assert failing(broken)
        with pytest.raises(UpstreamFailed):
            next(stream(1, wait_for=[broken]))
        return found

    @flow
    async def run_async() -> list[int]:
        later, stream = before.submit(), cast("Any", count_async)
        return [item async for item in stream(later, wait_for=[later])]

    assert value_of(run if colour == "sync" else run_async) == [0, 1]
    assert seen == ["before"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_hooks_of_a_generator_run_when_its_body_has_ended(colour: str) -> None:
    """Once: a later life that gives the items again has nothing to tell."""
    life = Life()

    def told(_task: Any, _run: Any, state: Any) -> None:
        life.ran.append(state.name)

    options: dict[str, Any] = {"on_completion": [told], "on_running": [told]}
    streams = count.with_options(**options), count_async.with_options(**options)
    run = consumer(colour, (partial(streams[0], 2), partial(streams[1], 2)), last=life.end)
    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [0, 1]
    assert life.ran == ["Running", "Completed"]


# -- definition
def test_what_cannot_be_a_generator_is_refused_at_definition() -> None:
    """A side effect has one end; a cache holds one value."""

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="side effect"):
        task(side_effect=True)(items)
    with pytest.raises(DefinitionError, match="cached"):
        task(cache_key_fn=always("key"))(items)
