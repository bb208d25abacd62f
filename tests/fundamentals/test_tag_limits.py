"""Limits named ``tag:NAME``: each task of a tag holds a slot while its body runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import replace
from typing import cast

import pytest

from agentflow import flow, task
from agentflow.engine.context import CURRENT
from agentflow.errors import ColourError
from agentflow.model.limits import Limit
from agentflow.task_runners import ProcessPoolTaskRunner
from tests.fundamentals.bodies import square
from tests.fundamentals.limits import PATIENCE, Meter, beside, held, take, until, waiting, with_limit
from tests.fundamentals.lives import Clock, memory, options, rows, start


def test_a_limit_on_a_tag_applies_to_every_task_of_it() -> None:
    """Tasks of the tag wait for each other, in all runs; others do not."""
    journal, meter, both = with_limit(2, "tag:db"), Meter(), asyncio.Barrier(2)

    @task(tags=["db"])
    async def query(number: int) -> int:
        with meter:
            await both.wait()
        return number

    @flow
    async def work() -> int:
        return sum(await asyncio.gather(*(query(number) for number in range(12))))

    assert start(work, journal=journal).value == 66
    assert (meter.most, meter.times) == (2, 12)
    assert not held(journal, "tag:db")


def test_tags_of_the_flow_count_for_its_tasks() -> None:
    """A task has the tags of what is around it."""
    journal = with_limit(1, "tag:db")
    seen: list[list[str]] = []

    @task
    def query() -> None:
        seen.append([slot.step for slot in held(journal, "tag:db")])

    @flow(tags=["db"])
    def work() -> None:
        query()

    start(work, journal=journal)
    assert seen == [["query"]]


@pytest.mark.parametrize("how", ["exhausted", "closed", "left"])
def test_a_generator_holds_its_slot_until_it_has_ended(how: str) -> None:
    """Also while it rests between two items; of one that its consumer left, the next step sees to that."""
    journal = with_limit(1, "tag:db")
    seen: list[int] = []

    def look() -> None:
        seen.append(len(held(journal, "tag:db")))

    @task(tags=["db"])
    def count() -> Iterator[int]:
        yield from range(3)

    @task
    def other() -> None:
        look()

    @flow
    def work() -> None:
        items = count()
        look()
        next(items)
        look()
        if how == "exhausted":
            list(items)
        elif how == "closed":
            cast("Generator[int]", items).close()
        del items
        other()

    assert start(work, journal=journal).error is None
    assert seen == [0, 1, 0]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_consumes_a_generator_shares_its_slot(colour: str) -> None:
    """Between two items it would else wait for a generator that waits for it. What it submits needs a slot."""
    journal = with_limit(1, "tag:db")
    seen: list[list[str]] = []

    @task(tags=["db"])
    def count() -> Iterator[int]:
        yield from range(3)

    @task(tags=["db"])
    async def count_async() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @task(tags=["db"])
    def use(number: int) -> int:
        seen.append([slot.step for slot in held(journal, "tag:db")])
        return number

    @task(tags=["db"], side_effect=True)
    async def pay(number: int) -> int:
        return use(number)

    @flow
    def work() -> list[int]:
        used = [use(number) for number in count()]
        return [*used, use.submit(3).result()]

    @flow
    async def work_async() -> list[int]:
        paid = [await pay(number) async for number in count_async()]
        return [*paid, await pay(3)]

    assert start(work if colour == "sync" else work_async, journal=journal).value == [0, 1, 2, 3]
    holders = ["count", "use"] if colour == "sync" else ["count_async", "pay"]
    assert seen == [[holders[0]]] * 3 + [[holders[1]]]
    assert not held(journal, "tag:db")


def test_an_async_generator_holds_its_slot_until_it_has_ended() -> None:
    """The same on an event loop."""
    journal = with_limit(1, "tag:db")
    seen: list[int] = []

    @task(tags=["db"])
    async def count() -> AsyncIterator[int]:
        for number in range(2):
            yield number

    @flow
    async def work() -> None:
        seen.extend([len(held(journal, "tag:db")) async for _ in count()])
        seen.append(len(held(journal, "tag:db")))

    assert start(work, journal=journal).error is None
    assert seen == [1, 1, 0]


def test_a_task_below_one_that_holds_a_slot_needs_none() -> None:
    """A slot of a tag is for the whole task, with all that it calls."""
    journal = with_limit(1, "tag:db")

    @task(tags=["db"])
    def inner() -> str:
        return "done"

    @task(tags=["db"])
    def outer() -> str:
        return inner()

    @flow
    def work() -> str:
        return outer()

    assert start(work, journal=journal).value == "done"


def test_a_slot_of_a_tag_is_taken_for_each_attempt() -> None:
    """It is not held during the delay before a retry."""
    journal, clock = with_limit(1, "tag:db"), Clock()
    seen: list[int] = []
    using = options(clock)

    def pause(seconds: float) -> None:
        seen.append(len(held(journal, "tag:db")))
        clock.sleep(seconds)

    @task(tags=["db"], retries=1, retry_delay_seconds=5)
    def query() -> str:
        seen.append(len(held(journal, "tag:db")))
        if len(seen) == 1:
            raise ValueError
        return "ok"

    @flow
    def work() -> str:
        return query()

    assert start(work, journal=journal, using=replace(using, sleep=pause)).value == "ok"
    assert seen == [1, 0, 1]


def test_a_side_effect_waits_before_it_is_about_to_start() -> None:
    """A run that is killed while its effect waits for a slot leaves nothing in doubt."""
    journal = with_limit(1, "tag:db")
    take(journal, "tag:db")
    paid: list[int] = []

    @task(side_effect=True, approval="never", tags=["db"])
    def pay() -> str:
        paid.append(1)
        return "paid"

    @flow
    def work() -> str:
        return pay()

    with beside(work, journal=journal) as ended:
        until(lambda: waiting(journal, "tag:db"), journal)
        assert not rows(journal, "intent")
        journal.release_slots(["other"])
    assert ended[0].value == "paid"
    assert paid == [1]


def test_a_limit_on_a_tag_that_comes_while_a_run_runs_is_seen() -> None:
    """So are its changes: 0 holds tasks, removing it lets them go."""
    journal = memory()
    begun = threading.Event()
    go_on = threading.Event()

    @task(tags=["db"])
    def query(number: int) -> int:
        if number == 0:
            begun.set()
            assert go_on.wait(PATIENCE)
        return number

    @flow
    def work() -> int:
        frame = CURRENT.get()
        assert frame is not None
        query(0)
        until(lambda: frame.run.tag_limits, journal)
        return query(1)

    with beside(work, journal=journal) as ended:
        assert begun.wait(PATIENCE)
        journal.set_limit(Limit("tag:db", 0))
        go_on.set()
        until(lambda: waiting(journal, "tag:db"), journal)
        assert not ended
        journal.delete_limit("tag:db")
    assert ended[0].value == 1


def test_waiting_for_a_slot_is_no_part_of_a_timeout() -> None:
    """timeout_seconds begins with the body."""
    journal = with_limit(1, "tag:db")
    take(journal, "tag:db")

    @task(tags=["db"], timeout_seconds=5)
    async def query() -> str:
        return "ok"

    @flow
    async def work() -> str:
        return await query()

    with beside(work, journal=journal) as ended:
        until(lambda: waiting(journal, "tag:db"), journal)
        journal.release_slots(["other"])
    assert ended[0].value == "ok"


def test_a_sync_task_that_would_block_a_loop_is_refused() -> None:
    """Waiting would stop every other branch; the message says how to call it."""
    journal = with_limit(1, "tag:db")
    take(journal, "tag:db")

    @task(tags=["db"])
    def query() -> None: ...

    @flow
    async def work() -> None:
        query()

    outcome = start(work, journal=journal)
    assert isinstance(outcome.error, ColourError)
    assert ".submit" in str(outcome.error)
    until(lambda: not waiting(journal, "tag:db"), journal)


def test_a_holder_may_wait_for_what_it_has_submitted() -> None:
    """However many tasks wait for the slot in the threads of the run, what its holder has submitted gets one."""
    journal, meter = with_limit(1, "tag:db"), Meter()

    @task
    def inner(number: int) -> int:
        return number

    @task(tags=["db"])
    def outer(number: int) -> int:
        with meter:
            first = inner.submit(number).result()
            return inner.submit(first).result()

    @flow
    def work() -> int:
        return sum(outer.map(range(40)).result())

    before = threading.active_count()
    assert start(work, journal=journal, using=options(max_workers=2)).value == 780
    assert (meter.most, meter.times) == (1, 40)
    assert threading.active_count() < before + 10


def test_a_body_in_another_process_has_a_slot_of_its_tag() -> None:
    """The flow's process takes it before the body is sent, and gives it back when it has ended."""
    journal = with_limit(1, "tag:db")
    take(journal, "tag:db")
    limited = square.with_options(tags=["db"])

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> int:
        return limited.submit(3).result()

    with beside(work, journal=journal) as ended:
        until(lambda: waiting(journal, "tag:db"), journal)
        assert not rows(journal, name="square")
        journal.release_slots(["other"])
    assert ended[0].value == 9
    assert not held(journal, "tag:db")
