"""R12: colour belongs to the function; abandoned attempts are refused; what unwinds a run is never swallowed."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

from agentflow import TaskTimeoutError, flow, task
from agentflow.errors import Fenced, JournalUnavailable, Revoked, Unwinding
from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from tests.fundamentals.lives import last_run, memory, options, resume, rows, start

SOON = 0.02


class Full(MemoryJournal):
    """A disk that is full at the n-th write of steps."""

    def __init__(self, at: int) -> None:
        super().__init__(b"k" * 32)
        self.at, self.writes = at, 0

    def append(self, number: int, epoch: int, rows: Any, **more: Any) -> None:
        self.writes += 1
        if self.writes == self.at:
            message = "the disk is full"
            raise JournalUnavailable(message)
        super().append(number, epoch, rows, **more)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("policy", [{}, {"retries": 2}])
def test_a_journal_that_cannot_store_stops_the_run_whatever_user_code_swallows(
    colour: str, policy: Any
) -> None:
    """Later steps are refused, the run has no end, and it can be resumed."""
    refused: list[BaseException] = []

    @task(**policy)
    def step(number: int) -> int:
        return number

    @task(**policy)
    async def step_async(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @flow(name="run")
    def run() -> str:
        for number in range(4):
            try:
                step(number)
            except BaseException as error:  # noqa: BLE001 - what the engine must survive
                refused.append(error)
        return "went on"

    @flow(name="run")
    async def run_async() -> str:
        for number in range(4):
            try:
                await step_async(number)
            except BaseException as error:  # noqa: BLE001 - what the engine must survive
                refused.append(error)
        return "went on"

    which = run if colour == "sync" else run_async
    journal = Full(2)
    with pytest.raises(JournalUnavailable, match="full"):
        start(which, journal=journal)
    assert isinstance(refused[0], JournalUnavailable)
    assert all(isinstance(error, (Unwinding, asyncio.CancelledError)) for error in refused)
    assert len(refused) == 3
    stored = journal.get_run(last_run(journal))
    assert stored is not None
    assert stored.state is StateType.RUNNING
    assert resume(which, stored.id, journal).value == "went on"


def test_a_run_that_somebody_took_over_stops_whatever_user_code_swallows() -> None:
    """Its next write is refused, and its outcome is nobody's."""
    journal = memory()

    @task
    def step(number: int) -> int:
        if number == 1:
            journal.claim_run(last_run(journal), take_over=True)
        return number

    @flow
    def run() -> str:
        for number in range(4):
            with suppress(BaseException):  # what the engine must survive
                step(number)
        return "went on"

    with pytest.raises(Fenced):
        start(run, journal=journal)
    assert len(rows(journal)) == 1
    stored = journal.get_run(last_run(journal))
    assert stored is not None
    assert stored.state is StateType.RUNNING


def test_an_abandoned_threads_submits_and_effects_are_refused() -> None:
    """Each verb of the engine looks at the attempt's token."""
    go, ended = threading.Event(), threading.Event()
    refused: list[str] = []
    paid: list[int] = []

    @task
    def step() -> int:
        return 1

    @task(side_effect=True)
    def pay() -> None:
        paid.append(1)

    @task(timeout_seconds=SOON)
    def slow() -> None:
        go.wait(5)
        for call in (step, step.submit, pay, lambda: step.map([])):
            try:
                call()
            except Revoked as error:
                refused.append(str(error))
        ended.set()

    @flow
    def run() -> None:
        with pytest.raises(TaskTimeoutError):
            slow()
        go.set()
        ended.wait(5)

    assert start(run).state is StateType.COMPLETED
    assert len(refused) >= 3
    assert paid == []


def test_sync_and_async_runs_of_one_journal_go_on_side_by_side() -> None:
    """A server runs sync flows in threads and async ones on its loop."""

    @task
    def step(number: int) -> int:
        return number

    @flow
    def sync() -> int:
        return sum(step(number) for number in range(20))

    @flow
    async def asynchronous() -> int:
        await asyncio.sleep(0)
        return sum(step(number) for number in range(20))

    journal = memory()

    async def server() -> list[Any]:
        runs = [
            *[asyncio.to_thread(sync.run, {}, journal=journal, options=options()) for _ in range(3)],
            *[asynchronous.run_async({}, journal=journal, options=options()) for _ in range(3)],
        ]
        return [outcome.value for outcome in await asyncio.gather(*runs)]

    assert asyncio.run(server()) == [190] * 6
