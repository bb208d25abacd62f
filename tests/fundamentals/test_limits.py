"""Limits: `concurrency` blocks, whoever waits for their slots, and what a replay makes of them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from agentflow import flow, sleep, task
from agentflow.concurrency import (
    AcquireConcurrencySlotTimeoutError,
    LimitNotFoundError,
    concurrency,
    rate_limit,
)
from agentflow.errors import ColourError, ParameterError, UsageError
from agentflow.model.limits import Slot
from agentflow.model.states import StateType
from tests.fundamentals.limits import PATIENCE, Meter, beside, held, take, until, waiting, with_limit
from tests.fundamentals.lives import Clock, Death, die, last_run, memory, options, resume, start

T = TypeVar("T")


@task
def step(value: T) -> T:
    """A step that gives what it is given."""
    return value


def test_a_block_holds_a_slot_while_it_runs() -> None:
    """It is taken on entering and given back on leaving, also by an exception."""
    journal = with_limit(2)
    seen: list[int] = []

    @flow
    def work() -> None:
        with concurrency("db"):
            seen.append(len(held(journal)))
        seen.append(len(held(journal)))
        with suppress(KeyError), concurrency(["db"], occupy=2):
            seen.append(held(journal)[0].slots)
            raise KeyError
        seen.append(len(held(journal)))

    assert start(work, journal=journal).state is StateType.COMPLETED
    assert seen == [1, 0, 2, 0]


def test_an_async_block_holds_a_slot_while_it_runs() -> None:
    """The same with ``async with``."""
    journal = with_limit(1)
    seen: list[int] = []

    @flow
    async def work() -> None:
        async with concurrency("db"):
            seen.append(len(held(journal)))
        seen.append(len(held(journal)))

    assert start(work, journal=journal).state is StateType.COMPLETED
    assert seen == [1, 0]


def test_a_slot_names_its_holder() -> None:
    """Run, epoch, step and process, for people who ask why nothing moves."""
    journal = with_limit(1)
    found: list[Slot] = []

    @task
    def fetch() -> None:
        with concurrency("db"):
            found.extend(held(journal))

    @flow
    def work() -> None:
        fetch()

    outcome = start(work, journal=journal)
    (slot,) = found
    assert (slot.run_id, slot.run, slot.epoch, slot.step) == (outcome.run_id, 1, 1, "fetch")
    assert slot.expires == slot.granted + 30  # type: ignore[operator]


def test_branches_share_a_limit() -> None:
    """Never more inside than there are slots, however many branches want in."""
    journal, meter, three = with_limit(3), Meter(), asyncio.Barrier(3)

    @task
    async def inside(number: int) -> int:
        async with concurrency("db"):
            with meter:
                await three.wait()
        return number

    @flow
    async def work() -> int:
        return sum(await asyncio.gather(*(inside(number) for number in range(21))))

    assert start(work, journal=journal).value == 210
    assert (meter.most, meter.times) == (3, 21)


def test_threads_share_a_limit() -> None:
    """The same for submitted sync tasks."""
    journal, meter = with_limit(2), Meter()
    both = threading.Barrier(2, timeout=PATIENCE)

    @task
    def inside(number: int) -> int:
        with concurrency("db"), meter:
            both.wait()
        return number

    @flow
    def work() -> int:
        return sum(future.result() for future in inside.map(range(10)))

    assert start(work, journal=journal).value == 45
    assert (meter.most, meter.times) == (2, 10)


def test_runs_share_a_limit_and_a_release_wakes_the_next() -> None:
    """A run that waits goes on as soon as the slot is given back."""
    journal = with_limit(1)
    take(journal)

    @flow
    def work() -> str:
        with concurrency("db"):
            return "in"

    with beside(work, journal=journal) as ended:
        until(lambda: waiting(journal), journal)
        assert not ended
        journal.release_slots(["other"])
    assert ended[0].value == "in"


def test_a_name_that_is_not_defined_does_not_limit() -> None:
    """Unless the block is strict."""

    @flow
    def work() -> str:
        with concurrency("nothing", occupy=1000):
            pass
        rate_limit("nothing")
        with pytest.raises(LimitNotFoundError), concurrency("nothing", strict=True):
            pass
        return "ended"

    journal = memory()
    assert start(work, journal=journal).value == "ended"
    assert journal.steps(1)[-1].name == "rate_limit:nothing"


def test_a_blocking_block_on_a_running_loop_is_refused() -> None:
    """`with` in async code says what to write instead."""

    @flow
    async def work() -> None:
        with concurrency("db"):
            pass

    outcome = start(work, journal=with_limit(1))
    assert isinstance(outcome.error, ColourError)
    assert "async with" in str(outcome.error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": []},
        {"names": "a", "occupy": 0},
        {"names": "a", "timeout_seconds": -1},
        {"names": "a", "lease_duration": 0},
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    """Before anything is taken."""
    with pytest.raises(ParameterError):
        concurrency(**wrong)


def test_one_object_is_for_one_block() -> None:
    """Entering it again while it is open is wrong use."""

    @flow
    def work() -> None:
        block = concurrency("db")
        with block, block:
            pass

    assert isinstance(start(work, journal=with_limit(2)).error, UsageError)


# -- waiting
def test_waiting_ends_after_its_timeout() -> None:
    """It raises a TimeoutError that names the limit, and leaves the queue."""
    journal, clock = with_limit(1), Clock()
    take(journal)

    @flow
    def work() -> str:
        try:
            with concurrency("db", timeout_seconds=60):
                return "in"
        except TimeoutError as error:
            return str(error)

    with beside(work, journal=journal, using=options(clock)) as ended:
        until(lambda: waiting(journal), journal)
        clock.now += 61
    assert "no slot of db became free within 60 s" in ended[0].value
    until(lambda: not waiting(journal), journal)


def test_a_timeout_of_nothing_does_not_wait() -> None:
    """0 asks once."""
    journal = with_limit(1)
    take(journal)

    @flow
    async def work() -> None:
        async with concurrency("db", timeout_seconds=0):
            pass

    assert isinstance(start(work, journal=journal).error, AcquireConcurrencySlotTimeoutError)
    assert not waiting(journal)


def test_a_cancelled_run_stops_waiting() -> None:
    """Its place in the queue is free."""
    for made in (_waits_sync, _waits_async):
        journal = with_limit(1)
        take(journal)
        with beside(made, journal=journal) as ended:
            until(lambda: waiting(journal), journal)  # noqa: B023 - called at once
            journal.request_cancel(last_run(journal), "enough")
        assert ended[0].state is StateType.CANCELLED
        until(lambda: not waiting(journal), journal)  # noqa: B023 - called at once


@flow
def _waits_sync() -> None:
    with concurrency("db"):
        pass


@flow
async def _waits_async() -> None:
    async with concurrency("db"):
        pass


def test_a_cancelled_branch_stops_waiting() -> None:
    """asyncio.timeout around a block is a timeout of the block."""
    journal = with_limit(1)
    take(journal)

    @flow
    async def work() -> str:
        try:
            async with asyncio.timeout(0.01), concurrency("db"):
                return "in"
        except TimeoutError:
            return "out"

    assert start(work, journal=journal, using=options(suspend=False)).value == "out"
    until(lambda: not waiting(journal), journal)


# -- replay
def test_a_block_whose_steps_are_recorded_takes_no_slot_on_replay() -> None:
    """A resumed run goes through what it did before without queueing for it; then it takes slots again."""
    journal = with_limit(1)
    alive: list[bool] = []

    @flow
    def work() -> int:
        total = 0
        for number in range(5):
            with concurrency("db"):
                total += step(number)
        if not alive:
            raise Death
        with concurrency("db", timeout_seconds=0):
            total += step(100)
        return total

    run_id = die(work, journal=journal)
    take(journal)
    alive.append(True)
    assert isinstance(resume(work, run_id, journal).error, AcquireConcurrencySlotTimeoutError)


def test_an_async_block_whose_steps_are_recorded_takes_no_slot_on_replay() -> None:
    """The same for branches of a gather."""
    journal = with_limit(2)
    alive: list[bool] = []
    ran: list[int] = []

    @task
    async def step(number: int) -> int:
        ran.append(number)
        return number

    async def branch(number: int) -> int:
        async with concurrency("db"):
            return await step(number)

    @flow
    async def work() -> int:
        total = sum(await asyncio.gather(*(branch(number) for number in range(6))))
        if not alive:
            raise Death
        return total

    run_id = die(work, journal=journal)
    take(journal, slots=2)
    alive.append(True)
    assert resume(work, run_id, journal).value == 15
    assert sorted(ran) == list(range(6))


def test_a_block_that_was_open_takes_its_slot_again() -> None:
    """What had begun and not ended goes on under a slot."""
    journal = with_limit(1)
    lives: list[int] = []

    @flow
    def work() -> int:
        with concurrency("db"):
            first = step(1)
            lives.append(len(held(journal)))
            if len(lives) == 1:
                raise Death
            return first + step(2)

    run_id = die(work, journal=journal)
    assert resume(work, run_id, journal).value == 3
    assert lives == [1, 1]
    assert not held(journal)


def test_a_block_without_steps_takes_its_slot_again() -> None:
    """Code of the flow itself runs again on replay, and needs the slot again."""
    journal = with_limit(1)
    seen: list[int] = []

    @task
    def step() -> None:
        if len(seen) == 1:
            raise Death

    @flow
    def work() -> None:
        with concurrency("db"):
            seen.append(len(held(journal)))
        step()

    run_id = die(work, journal=journal)
    assert resume(work, run_id, journal).state is StateType.COMPLETED
    assert seen == [1, 1]


def test_a_timeout_of_waiting_is_not_tried_again_on_replay() -> None:
    """A fallback that was taken stays taken, though the slot is free by now."""
    journal = with_limit(1)
    take(journal)
    alive: list[bool] = []

    @flow
    def work() -> str:
        try:
            with concurrency("db", timeout_seconds=0):
                result = step("inside")
        except AcquireConcurrencySlotTimeoutError:
            result = step("fallback")
        if not alive:
            raise Death
        return result

    run_id = die(work, journal=journal)
    journal.release_slots(["other"])
    alive.append(True)
    assert resume(work, run_id, journal).value == "fallback"


def test_a_block_does_not_move_the_side_effects_in_it() -> None:
    """A block around an effect that has happened, put there after a crash, changes nothing of it."""
    journal = with_limit(1)
    paid: list[int] = []
    blocks: list[bool] = []

    @task(side_effect=True, approval="never")
    def pay(amount: int) -> int:
        paid.append(amount)
        return amount

    @flow
    def work() -> int:
        if blocks:
            with concurrency("db"):
                return pay(1) + pay(2)
        pay(1)
        pay(2)
        raise Death

    run_id = die(work, journal=journal)
    blocks.append(True)
    assert resume(work, run_id, journal).value == 3
    assert paid == [1, 2]


def test_a_run_that_leaves_memory_gives_its_slots_back() -> None:
    """A durable wait inside a block: given back on eviction, taken again before the run goes on."""
    journal, clock = with_limit(1), Clock()
    entered: list[int] = []

    @flow
    def work() -> str:
        with concurrency("db"):
            step("before")
            entered.append(len(held(journal)))
            sleep(3600).result()
            entered.append(len(held(journal)))
            return step("after")

    outcome = start(work, journal=journal, using=options(clock))
    assert outcome.state is StateType.PAUSED
    assert not held(journal)
    clock.now += 3601
    assert resume(work, outcome.run_id, journal, options(clock)).value == "after"
    assert entered == [1, 1, 1]


def test_thousands_of_replayed_blocks_need_no_slot() -> None:
    """A replay commits nothing for them: not one row, not one claim."""
    journal = with_limit(1)
    alive: list[bool] = []

    @flow
    def work() -> int:
        total = 0
        for number in range(2000):
            with concurrency("db"):
                total += step(number)
        if not alive:
            raise Death
        return total

    run_id = die(work, journal=journal)
    before = len(journal.steps(1))
    alive.append(True)
    take(journal)
    assert resume(work, run_id, journal).value == 1999000
    assert len(journal.steps(1)) == before
