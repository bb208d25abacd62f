"""R4: eviction equals a crash: fenced first, its outcome discarded, and only when nothing of the run moves."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import busy, first, flow, get_run_logger, send_event, task, wait_for_event
from agentflow.errors import Suspended
from agentflow.journal.protocol import RunFilter
from agentflow.model.states import StateType
from tests.fundamentals.lives import last_run, log_of, memory, options, resume, rows, start


def test_the_unwinding_code_of_an_evicted_run_does_nothing() -> None:
    """Steps, logs and effects of a `finally` are refused; raw code runs, and what it returns is discarded."""
    journal = memory()
    raw: list[str] = []
    paid: list[str] = []

    @task
    def clean() -> None:
        raw.append("cleaned by a step")

    @task(side_effect=True)
    def pay() -> None:
        paid.append("paid")

    @flow
    def run() -> str:
        try:
            return str(wait_for_event("a").result())
        finally:
            raw.append("raw")
            for step in (clean, pay):
                try:
                    step()
                except BaseException as error:  # noqa: BLE001 - what the engine must survive
                    raw.append(type(error).__name__)

    outcome = start(run, journal=journal)
    assert outcome.state is StateType.PAUSED
    assert raw == ["raw", "Suspended", "Suspended"]
    assert rows(journal) == []
    send_event(outcome.run_id, "a", 1, journal=journal)
    assert resume(run, outcome.run_id, journal).value == "1"
    assert raw[3:] == ["raw", "cleaned by a step"]
    assert paid == ["paid"]


@pytest.mark.parametrize("ending", ["return", "raise", "log"])
def test_what_user_code_makes_of_an_eviction_is_discarded(ending: str) -> None:
    """Suspension is a flag on the run, not an exception's type: swallowing it changes nothing."""
    journal = memory()

    @flow(retries=3)
    async def run() -> Any:
        try:
            return await wait_for_event("a")
        except (Suspended, asyncio.CancelledError):
            if ending == "raise":
                message = "own"
                raise ValueError(message) from None
            if ending == "log":
                get_run_logger().info("evicted")
            return "a value that nobody gets"

    outcome = start(run, journal=journal)
    assert (outcome.state, outcome.value, outcome.error) == (StateType.PAUSED, None, None)
    stored = journal.get_run(outcome.run_id)
    assert stored is not None
    assert stored.state is StateType.PAUSED
    send_event(outcome.run_id, "a", "real", journal=journal)
    assert resume(run, outcome.run_id, journal).value == "real"


def test_a_timeout_that_is_armed_keeps_the_run() -> None:
    """A timer of the run may fire at any moment: nobody may evict it meanwhile."""

    @flow
    async def run() -> str:
        try:
            async with asyncio.timeout(0.05):
                return str(await wait_for_event("a"))
        except TimeoutError:
            return "timed out"

    assert start(run).value == "timed out"


def test_a_branch_that_only_gives_way_keeps_the_run() -> None:
    """It is about to run whenever anybody looks, for as long as it takes, and waits for nothing that could be seen."""

    async def giving_way() -> int:
        for _ in range(20_000):
            await asyncio.sleep(0)
        return 1

    @flow
    async def run() -> Any:
        return (await first(giving_way(), never=wait_for_event("a"))).value

    assert start(run).value == 1


def test_a_busy_block_keeps_the_run() -> None:
    """Raw work that must not be cut off says so."""
    journal = memory()
    done: list[str] = []
    go = threading.Event()

    def raw_work() -> None:
        go.wait(0.05)
        done.append("done")

    @flow
    async def run() -> Any:
        async def branch() -> None:
            with busy():
                await asyncio.get_running_loop().run_in_executor(None, raw_work)

        found = await asyncio.gather(wait_for_event("a"), branch())
        return found[0]

    outcome = start(run, journal=journal)
    assert outcome.state is StateType.PAUSED
    assert done == ["done"]


def test_a_thread_that_computes_keeps_the_run() -> None:
    """A sync flow that works while what it has submitted waits, and another submitted task waits for that."""
    journal = memory()
    seen: list[StateType] = []
    waiting = threading.Event()
    journal.subscribe(lambda: waiting.set() if journal.list_waits() else None)

    @task
    def asks() -> Any:
        return wait_for_event("a").result()

    @task
    def takes(value: Any) -> Any:
        return value

    @flow
    def run() -> Any:
        taken = takes.submit(asks.submit())
        waiting.wait(5)
        threading.Event().wait(0.05)  # raw work: many of the waker's looks long
        stored = journal.get_run(last_run(journal))
        seen.append(stored.state if stored else StateType.CRASHED)
        return taken.result()

    outcome = start(run, journal=journal)
    assert outcome.state is StateType.PAUSED
    assert seen == [StateType.RUNNING]


def test_a_raw_thread_pool_keeps_the_run_in_memory() -> None:
    """The engine cannot see what blocks there, so it never evicts the run; the answer reaches it all the same."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - belongs to this test only
    from contextvars import copy_context  # noqa: PLC0415 - the same

    journal = memory()

    def body() -> Any:
        return wait_for_event("a").result()

    @flow
    def run() -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, body).result()

    def person() -> None:
        opened.wait(5)
        threading.Event().wait(0.05)
        send_event(last_run(journal), "a", "answer", journal=journal)

    opened = threading.Event()
    journal.subscribe(lambda: opened.set() if journal.list_waits() else None)
    thread = threading.Thread(target=person)
    thread.start()
    outcome = start(run, journal=journal)
    thread.join()
    assert outcome.value == "answer"


def test_the_log_tells_of_evictions_only_what_the_run_did() -> None:
    """Lines written before the eviction are kept, once."""
    journal = memory()

    @flow
    def run() -> Any:
        get_run_logger().info("before")
        return wait_for_event("a").result()

    outcome = start(run, journal=journal)
    assert log_of(journal) == ["before"]
    assert outcome.state is StateType.PAUSED


def test_a_run_that_somebody_waits_for_stays_in_memory() -> None:
    """Without `suspend_after` it never leaves; its state says PAUSED all the same."""
    journal = memory()
    states: list[StateType] = []

    def person() -> None:
        paused.wait(5)
        stored = journal.get_run(last_run(journal))
        states.append(stored.state if stored else StateType.CRASHED)
        send_event(last_run(journal), "a", 1, journal=journal)

    paused = threading.Event()

    def look() -> None:
        if journal.list_runs(RunFilter(states=(StateType.PAUSED,))):
            paused.set()

    journal.subscribe(look)
    thread = threading.Thread(target=person)
    thread.start()

    @flow
    def run() -> Any:
        return wait_for_event("a").result()

    assert start(run, journal=journal, using=options(suspend=False)).value == 1
    thread.join()
    assert states == [StateType.PAUSED]
