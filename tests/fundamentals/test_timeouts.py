"""Timeouts of one attempt: async tasks are cancelled, sync ones abandoned, and what those still do is refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import TaskTimeoutError, flow, task
from agentflow.errors import Revoked
from agentflow.model.states import StateType
from tests.fundamentals.lives import memory, rows, start, value_of

SOON = 0.02


def test_an_async_task_is_cancelled_when_its_time_is_up() -> None:
    """Its own cleaning up runs; the caller gets `TaskTimeoutError`, which is a TimeoutError."""
    cleaned: list[int] = []

    @task(timeout_seconds=SOON)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    @flow
    async def run() -> str:
        with pytest.raises(TimeoutError) as caught:
            await slow()
        assert isinstance(caught.value, TaskTimeoutError)
        return str(caught.value)

    assert value_of(run) == f"slow ran past its timeout of {SOON} s"
    assert cleaned == [1]


def test_a_timeout_of_the_flow_itself_around_a_side_effect_is_a_timeout() -> None:
    """asyncio.timeout sees its own cancellation, although the effect is finished and recorded first."""
    limits: list[asyncio.Timeout] = []

    @task(side_effect=True, approval="never")
    async def pay() -> str:
        paid, loop = asyncio.Event(), asyncio.get_running_loop()
        limits[0].reschedule(loop.time())  # its time is up as soon as the effect has begun
        loop.call_later(SOON, paid.set)
        await paid.wait()
        return "paid"

    @flow
    async def run() -> str:
        try:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                return await pay()
        except TimeoutError:
            return "late"

    journal = memory()
    assert start(run, journal=journal).value == "late"
    assert [row.event for row in rows(journal, name="pay")] == ["intent", "completed"]


def test_a_sync_task_is_abandoned_and_its_late_calls_are_refused() -> None:
    """Its thread cannot be killed; the next thing that it asks of the engine raises, and nothing of it is recorded."""
    go, ended = threading.Event(), threading.Event()
    late: list[BaseException] = []

    @task
    def step() -> int:
        return 1

    @task(timeout_seconds=SOON)
    def slow() -> int:
        go.wait(5)
        try:
            return step()
        except BaseException as error:
            late.append(error)
            raise
        finally:
            ended.set()

    @flow
    def run() -> str:
        try:
            slow()
        except TaskTimeoutError:
            go.set()
            ended.wait(5)
            return "gave up"
        return ""

    journal = memory()
    assert start(run, journal=journal).value == "gave up"
    assert [type(error) for error in late] == [Revoked]
    assert [(row.name, row.event) for row in rows(journal)] == [("slow", "failed")]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_timeout_error_of_the_users_is_a_failure_and_no_timeout(colour: str) -> None:
    """Code that raises TimeoutError has not run past anything."""

    @task(timeout_seconds=60)
    def own() -> None:
        message = "own"
        raise TimeoutError(message)

    @task(timeout_seconds=60)
    async def own_async() -> None:
        await asyncio.sleep(0)
        message = "own"
        raise TimeoutError(message)

    @flow
    def run() -> None:
        own()

    @flow
    async def run_async() -> None:
        await own_async()

    error = start(run if colour == "sync" else run_async).error
    assert repr(error) == "TimeoutError('own')"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_each_attempt_has_its_whole_time(colour: str) -> None:
    """The deadline begins anew with each retry."""
    calls: list[int] = []
    never = threading.Event()

    @task(timeout_seconds=SOON, retries=1)
    def slow() -> int:
        calls.append(1)
        if len(calls) == 1:
            never.wait(1)
        return len(calls)

    @task(timeout_seconds=SOON, retries=1)
    async def slow_async() -> int:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return len(calls)

    @flow
    def run() -> int:
        return slow()

    @flow
    async def run_async() -> int:
        return await slow_async()

    assert value_of(run if colour == "sync" else run_async) == 2
    never.set()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_flow_has_timeouts_too(colour: str) -> None:
    """A run past its time has failed; a sub-flow's caller can catch that."""
    never = threading.Event()

    @flow(timeout_seconds=SOON)
    def slow() -> None:
        never.wait(1)

    @flow(timeout_seconds=SOON)
    async def slow_async() -> None:
        await asyncio.Event().wait()

    @flow
    def outer() -> str:
        try:
            slow()
        except TaskTimeoutError:
            return "caught"
        return ""

    outcome = start(slow if colour == "sync" else slow_async)
    assert (outcome.state, type(outcome.error)) == (StateType.FAILED, TaskTimeoutError)
    assert value_of(outer) == "caught"
    never.set()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_flow_that_ran_past_its_time_is_retried(colour: str) -> None:
    """A timeout is a failure like others; what the abandoned attempt still does is refused."""
    calls: list[int] = []
    never = threading.Event()

    @flow(timeout_seconds=SOON, retries=1)
    def slow() -> int:
        calls.append(1)
        if len(calls) == 1:
            never.wait(1)
        return len(calls)

    @flow(timeout_seconds=SOON, retries=1)
    async def slow_async() -> int:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return len(calls)

    assert value_of(slow if colour == "sync" else slow_async) == 2
    never.set()


def test_a_timeout_around_a_task_reaches_the_tasks_below() -> None:
    """What a timed-out async task awaits is cancelled with it; a cancelled pure step leaves no end."""

    @task
    async def inner() -> None:
        await asyncio.Event().wait()

    @task(timeout_seconds=SOON)
    async def outer() -> None:
        await inner()

    @flow
    async def run() -> Any:
        with pytest.raises(TaskTimeoutError):
            await outer()

    journal = memory()
    start(run, journal=journal)
    assert [(row.name, row.event) for row in rows(journal)] == [("outer", "failed")]
