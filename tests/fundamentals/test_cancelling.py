"""Asking a run to stop: it stops at its next step; side effects run to their end first."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import flow, task, wait_for_event
from agentflow.errors import Cancelling, RunCancelled
from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from tests.fundamentals.lives import Death, die, last_run, memory, options, rows, start


def cancel(journal: MemoryJournal) -> None:
    journal.request_cancel(last_run(journal), "somebody said so")


def until_seen(step: Any) -> None:
    """Call a step again and again, until the run's owner has seen the request."""
    for number in range(1_000_000):
        step(number)


@pytest.mark.parametrize("swallow", [False, True])
def test_a_sync_run_stops_at_its_next_step(swallow: bool) -> None:
    """Its next step refuses to start; code that swallows the exception changes nothing."""
    journal = memory()
    refused: list[BaseException] = []

    @task
    def step(number: int) -> None:
        if number == 3:
            cancel(journal)

    @flow
    def run() -> str:
        try:
            until_seen(step)
        except BaseException as error:
            refused.append(error)
            if not swallow:
                raise
        return "went on"

    outcome = start(run, journal=journal)
    assert outcome.state is StateType.CANCELLED
    assert isinstance(outcome.error, RunCancelled)
    assert "somebody said so" in str(outcome.error)
    assert isinstance(refused[0], Cancelling)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_waiting_run_stops_at_once(colour: str) -> None:
    """Whoever waits is unwound."""
    journal = memory()

    @flow
    def run() -> Any:
        return wait_for_event("never").result()

    @flow
    async def run_async() -> Any:
        return await wait_for_event("never")

    opened = threading.Event()
    journal.subscribe(lambda: opened.set() if journal.list_waits() else None)

    def person() -> None:
        opened.wait(5)
        cancel(journal)

    thread = threading.Thread(target=person)
    thread.start()
    using = options(suspend=False)
    assert (
        start(run if colour == "sync" else run_async, journal=journal, using=using).state
        is StateType.CANCELLED
    )
    thread.join()


def test_a_run_out_of_memory_is_cancelled_at_once() -> None:
    """Nobody owns it, so nobody has to see it."""
    journal = memory()

    @flow
    def run() -> Any:
        return wait_for_event("never").result()

    run_id = start(run, journal=journal).run_id
    assert journal.request_cancel(run_id, "no").state is StateType.CANCELLED


@pytest.mark.parametrize("timeout", [None, 60])
def test_an_effect_in_flight_runs_to_its_end_and_is_recorded(timeout: float | None) -> None:
    """The run ends after it; what comes after it does not start."""
    journal = memory()
    done: list[int] = []

    @task(side_effect=True, timeout_seconds=timeout)
    async def pay(number: int) -> int:
        cancel(journal)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.1  # longer than the owner takes to see the request
        while loop.time() < until:  # noqa: ASYNC110 - the point is to be busy
            await asyncio.sleep(0)
        done.append(number)
        return number

    @flow
    async def run() -> None:
        await pay(1)
        await pay(2)

    assert start(run, journal=journal).state is StateType.CANCELLED
    assert done == [1]
    assert [row.event for row in rows(journal)] == ["intent", "completed"]


def test_a_run_whose_owner_died_while_it_was_to_stop_does_nothing_more() -> None:
    """Its next life cancels it without running any of it, for the reason that was given."""
    journal = memory()
    calls: list[int] = []

    @flow
    def run() -> None:
        calls.append(1)

    made = journal.create_run(run.new_run({}, journal, options(), Origin.PERSON))  # and its process dies here
    cancel(journal)
    outcome = run.resume(made.id, journal=journal, options=options(), take_over=True)
    assert outcome.state is StateType.CANCELLED
    assert calls == []
    stored = journal.get_run(made.id)
    assert stored is not None
    assert (stored.state, stored.message, stored.error) == (StateType.CANCELLED, "somebody said so", None)


def test_a_run_that_is_interrupted_while_it_is_to_stop_has_stopped() -> None:
    """Its process lets go of it; nobody has to come back to see the request."""
    journal = memory()

    @flow
    def run() -> None:
        cancel(journal)
        raise Death

    stored = journal.get_run(die(run, journal=journal))
    assert stored is not None
    assert (stored.state, stored.message) == (StateType.CANCELLED, "somebody said so")
