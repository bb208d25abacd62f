"""Blocks that hold slots and would wait for each other for ever: one of them gives up, the others go on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.concurrency import SlotDeadlockError, concurrency
from agentflow.engine.deadlocks import claim_id, is_nested, to_give_up
from agentflow.model.limits import Limit, Slot
from tests.fundamentals.limits import PATIENCE, beside, held, waiting, with_limit
from tests.fundamentals.lives import Death, die, resume, start


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_blocks_nested_in_opposite_orders(colour: str) -> None:
    """The one that came to its inner block last gets an error and lets go; the other one ends."""
    journal = with_limit(1, "a", "b")
    both = threading.Barrier(2)

    @flow
    def work(first: str, second: str) -> str:
        with concurrency(first):
            both.wait(PATIENCE)
            with concurrency(second):
                return "done"

    @flow
    async def work_async(first: str, second: str) -> str:
        async with concurrency(first):
            await asyncio.to_thread(both.wait, PATIENCE)
            async with concurrency(second):
                return "done"

    run = work if colour == "sync" else work_async
    with (
        beside(run, "a", "b", journal=journal) as one,
        beside(run, "b", "a", journal=journal) as other,
    ):
        pass
    outcomes = [*one, *other]
    assert [outcome.value for outcome in outcomes if outcome.error is None] == ["done"]
    (error,) = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert isinstance(error, SlotDeadlockError)
    assert "in one block" in str(error)
    assert not journal.list_slots()


def test_a_block_that_wants_what_is_held_around_it() -> None:
    """It says so instead of waiting for itself; a life after a crash gets the same exception, and takes nothing."""
    journal = with_limit(1)
    alive: list[bool] = []

    @task
    def step(which: str) -> str:
        return which

    @flow
    def work() -> str:
        with concurrency("db"):
            try:
                with concurrency("db"):
                    found = step("inside")
            except SlotDeadlockError:
                found = step("outside")
        if not alive:
            raise Death
        return found

    run_id = die(work, journal=journal)
    journal.set_limit(Limit("db", 2))
    alive.append(True)
    assert resume(work, run_id, journal).value == "outside"


def test_a_body_that_holds_a_slot_of_its_tag_counts() -> None:
    """A task with a limited tag and a block of that limit in it wait for each other, too."""
    journal = with_limit(1, "tag:heavy")

    @task(tags=["heavy"])
    def step() -> None:
        with concurrency("tag:heavy"):
            pass

    @flow
    def work() -> None:
        step()

    assert isinstance(start(work, journal=journal).error, SlotDeadlockError)


def test_a_retry_comes_after_the_others() -> None:
    """The task that gave up lets the others end, and gets its slots in its next attempt."""
    journal = with_limit(1, "a", "b")
    both = threading.Barrier(2)
    met: list[str] = []

    @task(retries=1)
    def work(first: str, second: str) -> str:
        with concurrency(first):
            if len(met) < 2:
                met.append(first)
                both.wait(PATIENCE)
            with concurrency(second):
                return first

    @flow
    def run() -> list[str]:
        return work.map(["a", "b"], ["b", "a"]).result()

    assert start(run, journal=journal).value == ["a", "b"]


def test_what_was_only_submitted_is_waited_for() -> None:
    """A block ends without it, so it waits as long as it takes."""
    journal = with_limit(1)

    @task
    def inside() -> int:
        with concurrency("db"):
            return 1

    @flow
    def run() -> int:
        with concurrency("db"):
            future = inside.submit()
            while not waiting(journal):
                future.wait(0.01)
            assert len(held(journal)) == 1
        return future.result()

    assert start(run, journal=journal).value == 1
    assert not is_nested(claim_id())


A, B, C = (claim_id() for _ in range(3))


def slot(claim: str, limit: str, ticket: int = 0, *, waits: bool = False, **more: Any) -> Slot:
    values: dict[str, Any] = {"slots": 1, "run": 0, "epoch": 0, "run_id": "", "step": "", "owner": ""}
    values |= {"keeper": "", "since": 0.0, "lease": 1.0, "expires": 1.0, "spends": False} | more
    return Slot(claim=claim, limit=limit, ticket=ticket, granted=None if waits else 1.0, **values)


def within(*claims: str) -> str:
    return claim_id(claims)


ONE = [Limit("a", 1), Limit("b", 1), Limit("c", 1)]
A_FOR_B, B_FOR_A, B_FOR_C, C_FOR_A = within(A), within(B), within(B), within(C)
CIRCLE = [slot(A, "a"), slot(B, "b"), slot(A_FOR_B, "b", 1, waits=True), slot(B_FOR_A, "a", 2, waits=True)]


@pytest.mark.parametrize(
    ("limits", "slots", "gives_up"),
    [
        pytest.param(ONE, CIRCLE, B_FOR_A, id="two"),
        pytest.param(ONE, CIRCLE[:3], "", id="a holder that goes on"),
        pytest.param([Limit("a", 2), *ONE[1:]], CIRCLE, "", id="another slot is free"),
        pytest.param([Limit("a", 1, active=False), *ONE[1:]], CIRCLE, "", id="a limit that is switched off"),
        pytest.param([Limit("a", 0), *ONE[1:]], CIRCLE, "", id="a limit that somebody has to raise"),
        pytest.param(ONE, [*CIRCLE[:3], CIRCLE[3]._replace(spends=True)], "", id="slots that come back"),
        pytest.param([Limit("a", 2), *ONE[1:]], [*CIRCLE, slot(C, "a")], "", id="a third holder goes on"),
        pytest.param(
            ONE,
            [
                slot(A, "a"),
                slot(B, "b"),
                slot(C, "c"),
                slot(A_FOR_B, "b", 1, waits=True),
                slot(B_FOR_C, "c", 3, waits=True),
                slot(C_FOR_A, "a", 2, waits=True),
            ],
            B_FOR_C,
            id="three",
        ),
        pytest.param(
            ONE, [*CIRCLE, slot("bystander", "a", 3, waits=True)], B_FOR_A, id="who stands behind them"
        ),
    ],
)
def test_who_gives_up(limits: list[Limit], slots: list[Slot], gives_up: str) -> None:
    """The youngest claim of a circle; nobody where somebody can still go on."""
    assert to_give_up(limits, slots) == gives_up
