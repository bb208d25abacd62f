"""Which of several ends first: `first`, `as_completed` and `wait`, the same in every life."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import (
    as_completed,
    first,
    flow,
    request_input,
    send_event,
    sleep,
    task,
    wait_for_event,
)
from agentflow.errors import ColourError, DecisionRefusedError, UsageError
from agentflow.futures import Winner, wait
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict
from tests.fundamentals.lives import (
    Clock,
    Death,
    answer,
    die,
    last_run,
    memory,
    options,
    resume,
    rows,
    start,
    value_of,
)


@task
async def after(turns: int, value: Any) -> Any:
    for _ in range(turns):
        await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


@task
async def never() -> None:
    await asyncio.Event().wait()


class Doors:
    """Sync tasks that end when they are told to."""

    def __init__(self, count: int) -> None:
        self.doors = [threading.Event() for _ in range(count)]

    def task(self) -> Any:
        @task
        def through(door: int) -> int:
            self.doors[door].wait(10)
            return door

        return through


def test_the_first_of_several_coroutines_wins() -> None:
    """By position or by name; the others are cancelled."""

    @flow
    async def run() -> list[Any]:
        by_position = await first(never(), after(1, "quick"))
        by_name = await first(slow=never(), quick=after(1, "quick"))
        return [by_position, by_name]

    journal = memory()
    assert start(run, journal=journal).value == [(1, "quick"), ("quick", "quick")]
    assert len(rows(journal, "completed", name="after")) == 2


def test_a_winner_that_failed_raises() -> None:
    """The race ends with the exception of whoever ended first."""

    @flow
    async def run() -> Winner:
        return await first(never(), after(0, ValueError("early")))

    with pytest.raises(ValueError, match="early"):
        value_of(run)


def test_the_winner_is_the_same_on_replay() -> None:
    """The next life takes the recorded winner, whoever would be faster then."""
    lives: list[str] = []
    speeds = {"a": 9, "b": 0}

    @task(persist_result=False)
    async def racer(name: str) -> str:
        for _ in range(speeds[name]):
            await asyncio.sleep(0)
        return name

    @flow
    async def run() -> str:
        won = await first(racer("a"), racer("b"))
        lives.append(won.value)
        if len(lives) == 1:
            raise Death
        return won.value

    journal = memory()
    run_id = die(run, journal=journal)
    speeds.update(a=0, b=9)
    assert resume(run, run_id, journal).value == "b"
    assert lives == ["b", "b"]


@pytest.mark.parametrize("decided", [True, False], ids=["decided", "undecided"])
def test_a_loser_asks_for_what_it_has_recorded_before_it_is_cancelled(decided: bool) -> None:
    """However soon the winner ends in the next life: no side effect of a loser is left over."""
    lives: list[str] = []
    paid: list[int] = []
    done = asyncio.Event()

    @task(side_effect=True, approval="never")
    async def pay(amount: int) -> None:
        paid.append(amount)

    async def loser() -> None:
        for amount in (1, 2, 3):
            await pay(amount)
        done.set()
        await asyncio.Event().wait()

    async def winner() -> str:
        if len(lives) == 1:
            await (done if decided else asyncio.Event()).wait()
        return "won"

    async def killer() -> None:
        if len(lives) == 1 and not decided:
            await done.wait()
            raise Death

    @flow
    async def run() -> str:
        lives.append("lived")
        won, _ = await asyncio.gather(first(winner(), loser()), killer())
        if len(lives) == 1:
            raise Death
        return won.value

    journal = memory()
    outcome = resume(run, die(run, journal=journal), journal)
    assert (outcome.value, outcome.unclaimed, paid) == ("won", (), [1, 2, 3])


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "too late"])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_question_races_with_a_timer_and_the_loser_is_withdrawn(colour: str, answered: bool) -> None:
    """A run waits for a person and a clock at once, out of memory; nobody is asked what does not matter any more."""
    clock = Clock()

    @flow
    def run() -> Any:
        won = first(person=request_input("Go?", bool), late=sleep(60)).result()
        asked_again = request_input("Sure?", bool).result()
        return [won.which, won.value, asked_again]

    @flow
    async def run_async() -> Any:
        won = await first(person=request_input("Go?", bool), late=sleep(60))
        asked_again = await request_input("Sure?", bool)
        return [won.which, won.value, asked_again]

    which: Any = run if colour == "sync" else run_async
    journal = memory()
    outcome = start(which, journal=journal, using=options(clock))
    assert outcome.state is StateType.PAUSED
    assert len(outcome.waiting_for) == 2
    question = next(wait for wait in outcome.waiting_for if wait.name == "Go?")
    if answered:
        journal.decide(question.id, decided_true(), now=clock())
    else:
        clock.now += 61
    outcome = resume(which, outcome.run_id, journal, options(clock))
    assert [wait.name for wait in outcome.waiting_for] == ["Sure?"]
    if not answered:
        with pytest.raises(DecisionRefusedError, match="withdrawn"):
            journal.decide(question.id, decided_true(), now=clock())
    answer(journal, Verdict.ANSWERED, value=True)
    outcome = resume(which, outcome.run_id, journal, options(clock))
    assert outcome.value == (["person", True, True] if answered else ["late", None, True])


def decided_true() -> Any:
    from agentflow.model.waits import Decision  # noqa: PLC0415 - only here

    return Decision(Verdict.ANSWERED, True, actor="ann")


def test_an_event_is_not_lost_to_a_withdrawn_wait() -> None:
    """What nobody waits for any more takes no event away from whoever asks next."""
    clock = Clock()

    @flow
    async def run() -> Any:
        await first(wait_for_event("go"), after(0, 1))
        return await wait_for_event("go")

    journal = memory()
    outcome = start(run, journal=journal, using=options(clock))
    send_event(outcome.run_id, "go", 7, journal=journal)
    assert resume(run, outcome.run_id, journal, options(clock)).value == 7


def test_a_race_of_submitted_tasks_lets_the_losers_go_on() -> None:
    """Futures are not cancelled; their results can be asked for later."""
    doors = Doors(2)
    through = doors.task()

    @flow
    def run() -> list[Any]:
        futures = [through.submit(0), through.submit(1)]
        doors.doors[1].set()
        won = first(*futures).result()
        doors.doors[0].set()
        return [won.which, won.value, futures[0].result()]

    assert value_of(run) == [1, 1, 0]


def test_first_says_what_it_cannot_race() -> None:
    """Nothing, a coroutine in a sync flow, blocking on a loop: each with the way out."""

    @flow
    def run() -> list[str]:
        with pytest.raises(UsageError, match="something to wait for"):
            first()
        with pytest.raises(UsageError, match="submit"):
            first(7).result()  # pyright: ignore[reportArgumentType]
        return []

    @flow
    async def run_async() -> int:
        racing = first(after(0, 1))
        with pytest.raises(ColourError, match="await first"):
            racing.result()
        return (await racing).value

    assert value_of(run) == []
    assert value_of(run_async) == 1


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_futures_come_in_the_order_in_which_they_end(colour: str) -> None:
    """...and in the same order in the next life, whatever happens then."""
    doors = Doors(3)
    through = doors.task()
    orders: list[list[int]] = []
    opening = iter([2, 0, 1])

    def note(found: list[int]) -> None:
        if not orders:
            door = next(opening, None)
            if door is not None:
                doors.doors[door].set()
        if len(found) == 3:
            orders.append(found)
            if len(orders) == 1:
                raise Death

    @flow
    def run() -> list[int]:
        found: list[int] = []
        note(found)
        for future in as_completed(through.map([0, 1, 2])):
            found.append(future.result())
            note(found)
        return found

    @flow
    async def run_async() -> list[int]:
        found: list[int] = []
        note(found)
        async for future in as_completed(through.map([0, 1, 2])):
            found.append(await future)
            note(found)
        return found

    which: Any = run if colour == "sync" else run_async
    journal = memory()
    run_id = die(which, journal=journal)
    assert resume(which, run_id, journal).value == [2, 0, 1]
    assert orders == [[2, 0, 1]] * 2


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_as_completed_stops_waiting_in_time(colour: str) -> None:
    """A timeout says how many have not ended."""
    doors = Doors(2)
    through = doors.task()
    doors.doors[0].set()

    @flow
    def run() -> str:
        futures = through.map([0, 1])
        futures[0].wait()
        try:
            list(as_completed(futures, timeout=0))
        except TimeoutError as error:
            return str(error)
        finally:
            doors.doors[1].set()
        return ""

    @flow
    async def run_async() -> str:
        futures = through.map([0, 1])
        try:
            async for _ in as_completed(futures, timeout=0.01):
                pass
        except TimeoutError as error:
            return str(error)
        finally:
            doors.doors[1].set()
        return ""

    assert "1 of 2" in value_of(run) if colour == "sync" else "of 2" in value_of(run_async)


def test_wait_tells_the_done_from_the_others_and_remembers_it() -> None:
    """With a timeout, which had ended is recorded; without one, all have."""
    doors = Doors(2)
    through = doors.task()
    doors.doors[0].set()
    lives: list[list[int]] = []

    @flow
    def run() -> list[int]:
        futures = through.map([0, 1])
        futures[0].wait()
        done, not_done = wait(futures, timeout=0)
        lives.append([len(done), len(not_done)])
        doors.doors[1].set()
        if len(lives) == 1:
            futures.wait()
            raise Death
        everything = wait(futures)
        return [*lives[-1], len(everything.done), len(everything.not_done)]

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [1, 1, 2, 0]
    assert lives == [[1, 1]] * 2
    assert last_run(journal) == run_id


def test_a_future_may_be_named_twice() -> None:
    """In `as_completed` and `wait`, and among the results of a list."""

    @task
    def same(x: int) -> int:
        return x

    @flow
    def run() -> Any:
        one, two = same.submit(1), same.submit(2)
        both = sorted(future.result() for future in as_completed([one, one, two]))
        done, others = wait([one, two, one])
        return [both, [future.result() for future in done], list(others)]

    assert value_of(run) == [[1, 1, 2], [1, 2, 1], []]


def test_waiting_for_futures_on_a_loop_is_refused() -> None:
    """It would stop everything else there."""

    @flow
    async def run() -> int:
        future = after.submit(1, 1)
        with pytest.raises(ColourError, match="await"):
            wait([future])
        return await future

    assert value_of(run) == 1
