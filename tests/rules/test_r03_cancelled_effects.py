"""R3: an effect outlives whoever asked for it: cancelled callers, failed attempts, flows that do not look."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.journal.memory import MemoryJournal
from agentflow.model.steps import StepRow
from tests.fundamentals.lives import memory, rows, start, value_of

TRIED: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_tried() -> None:
    TRIED.clear()


@pytest.mark.parametrize("timeout", [None, 60])
def test_an_effect_is_shielded_from_its_callers_cancellation(timeout: float | None) -> None:
    """It runs to its end and is recorded; then the cancellation goes on."""
    journal = memory()

    @task(side_effect=True, timeout_seconds=timeout)
    async def pay(started: asyncio.Event, go: asyncio.Event) -> str:
        started.set()
        await go.wait()
        TRIED.append("done")
        return "paid"

    @flow
    async def run() -> bool:
        started, go = asyncio.Event(), asyncio.Event()
        caller = asyncio.create_task(pay(started, go))
        await started.wait()
        caller.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait([caller])
        return caller.cancelled()

    assert start(run, journal=journal).value is True
    assert TRIED == ["done"]
    assert [row.event for row in rows(journal)] == ["intent", "completed"]


class Hooked(MemoryJournal):
    """Calls back when rows have been stored, and gives the callers time to see it."""

    def __init__(self) -> None:
        super().__init__(b"k" * 32)
        self.on_intent: Any = None
        self.on_end: Any = None

    def start_effect(self, number: int, epoch: int, row: StepRow, **options: Any) -> None:
        super().start_effect(number, epoch, row, **options)
        self._call(self.on_intent)

    def append(self, number: int, epoch: int, rows: Any, **options: Any) -> None:
        super().append(number, epoch, rows, **options)
        if any(row.effect and row.event == "completed" for row in rows):
            self._call(self.on_end)

    def _call(self, hook: Any) -> None:
        if hook is not None:
            hook()
            threading.Event().wait(0.02)


def test_a_cancellation_before_the_body_leaves_no_doubt() -> None:
    """The intent was committed and the body never ran: the next attempt runs it, and nobody is asked."""
    journal = Hooked()

    @task(side_effect=True)
    async def pay() -> str:
        TRIED.append("paid")
        return "paid"

    @flow(retries=1)
    async def run() -> str:
        caller = asyncio.create_task(pay())
        if journal.on_intent is None:
            loop = asyncio.get_running_loop()
            journal.on_intent = lambda: loop.call_soon_threadsafe(caller.cancel)
        await asyncio.wait([caller])
        if caller.cancelled():
            raise ValueError
        return caller.result()

    assert start(run, journal=journal).value == "paid"
    assert TRIED == ["paid"]


def test_a_cancellation_while_the_end_is_committed_does_not_lose_it() -> None:
    """The next attempt finds what was paid, and neither pays nor asks again."""
    journal = Hooked()

    @task(side_effect=True, idempotent=True)
    async def pay() -> str:
        TRIED.append("paid")
        return "paid"

    @flow(retries=1)
    async def run() -> str:
        caller = asyncio.create_task(pay())
        if journal.on_end is None:
            loop = asyncio.get_running_loop()
            journal.on_end = lambda: loop.call_soon_threadsafe(caller.cancel)
        await asyncio.wait([caller])
        if caller.cancelled():
            raise ValueError
        return caller.result()

    assert start(run, journal=journal).value == "paid"
    assert TRIED == ["paid"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_effect_in_flight_is_not_doubled_by_a_retry_around_it(colour: str) -> None:
    """The attempt failed while its effect was still under way; the next one waits for that effect's end."""
    go = threading.Event()
    attempts: list[int] = []

    @task(side_effect=True)
    def pay() -> int:
        go.wait(5)
        TRIED.append(1)
        return len(TRIED)

    @task(side_effect=True)
    async def pay_async() -> int:
        for _ in range(20):
            await asyncio.sleep(0)
        TRIED.append(1)
        return len(TRIED)

    @task
    async def fail() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        return 0

    @flow(retries=1)
    def run() -> int:
        future = pay.submit()
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        go.set()
        return future.result()

    @task(retries=1)
    async def around() -> int:
        return sum(await asyncio.gather(pay_async(), fail()))

    @flow
    async def run_async() -> int:
        return await around()

    assert value_of(run if colour == "sync" else run_async) == 1
    assert TRIED == [1]


def test_a_run_does_not_end_before_its_effects_do() -> None:
    """Also where the flow neither awaits nor looks."""
    journal = memory()

    @task(side_effect=True)
    async def pay(started: asyncio.Event) -> None:
        started.set()
        for _ in range(50):
            await asyncio.sleep(0)
        TRIED.append(1)

    keep: list[Any] = []

    @flow
    async def run() -> str:
        started = asyncio.Event()
        keep.append(asyncio.create_task(pay(started)))
        await started.wait()
        return "ended"

    assert start(run, journal=journal).value == "ended"
    assert TRIED == [1]
    assert [row.event for row in rows(journal)] == ["intent", "completed"]
