"""Timeouts of one attempt: async tasks are cancelled, sync ones abandoned, and what those still do is refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import TaskTimeoutError, flow, task
from agentflow.errors import Revoked, Unwinding
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


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_ran_past_its_time_calls_nothing_any_more(colour: str) -> None:
    """Neither tasks nor sub-flows begin, however the late code calls them; it may clean up with its own means."""
    ran: list[str] = []
    refused: list[BaseException] = []
    go, ended = threading.Event(), threading.Event()

    @task
    def step() -> None:
        ran.append("step")

    @task
    async def step_async() -> None:
        ran.append("step")

    @flow
    def sub() -> None:
        ran.append("sub")

    def call_late(*calls: Any) -> None:
        for call in calls:
            try:
                call()
            except Unwinding as error:
                refused.append(error)
        ended.set()

    @flow(timeout_seconds=SOON)
    def slow() -> None:
        go.wait(5)
        call_late(step, sub, step.submit, step_async.submit)

    @flow(timeout_seconds=SOON)
    async def slow_async() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            call_late(step, sub, step.submit, step_async.submit)

    journal = memory()
    outcome = start(slow if colour == "sync" else slow_async, journal=journal)
    go.set()
    ended.wait(5)
    assert type(outcome.error) is TaskTimeoutError
    assert len(refused) == 4
    assert ran == []
    assert {row.name for row in rows(journal)} <= {"slow", "slow_async"}


@pytest.mark.parametrize("reaction", ["goes on", "calls a task", "gives a value"])
def test_async_code_that_takes_no_notice_of_its_timeout_has_run_past_it_all_the_same(reaction: str) -> None:
    """Swallowing the cancellation changes nothing: the attempt has failed, and its value is nobody's."""
    ran: list[str] = []

    @task
    async def step() -> None:
        ran.append("step")

    @task(timeout_seconds=SOON)
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if reaction == "calls a task":
                await step()
            elif reaction == "goes on":
                await asyncio.sleep(0)
        return "late"

    @flow
    async def run() -> str:
        with pytest.raises(TaskTimeoutError):
            await stubborn()
        return "gave up"

    journal = memory()
    assert start(run, journal=journal).value == "gave up"
    assert [(row.name, row.event) for row in rows(journal)] == [("stubborn", "failed")]
    assert ran == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_side_effect_under_way_ends_although_the_time_around_it_is_up(colour: str) -> None:
    """With the tasks that it calls: what has begun is not left in doubt by whoever has lost patience."""
    enough = 0.4  # for the effect to begin
    begun, go = threading.Event(), threading.Event()
    ends = asyncio.Event()

    @task
    def receipt() -> str:
        return "receipt"

    @task(side_effect=True, approval="never")
    def pay() -> str:
        begun.set()
        go.wait(5)
        return receipt()

    @task(timeout_seconds=enough)
    def impatient() -> str:
        return pay()

    @task(side_effect=True, approval="never")
    async def pay_async() -> str:
        loop = asyncio.get_running_loop()
        loop.call_later(2 * enough, ends.set)
        await ends.wait()
        return receipt()

    @task(timeout_seconds=enough)
    async def impatient_async() -> str:
        return await pay_async()

    @flow
    def run() -> str:
        try:
            return impatient()
        except TaskTimeoutError:
            go.set()
            return "late"

    @flow
    async def run_async() -> str:
        try:
            return await impatient_async()
        except TaskTimeoutError:
            return "late"

    journal = memory()
    outcome = start(run if colour == "sync" else run_async, journal=journal)
    assert outcome.value == "late"
    name = "pay" if colour == "sync" else "pay_async"
    assert [row.event for row in rows(journal, "completed", "unknown", name=name)] == ["completed"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_time_begins_once_what_a_call_waits_for_has_ended(colour: str) -> None:
    """Of tasks and sub-flows alike: neither `wait_for` nor futures among the arguments take any of it."""
    limit = 0.1

    @task
    def first() -> int:
        threading.Event().wait(1.5 * limit)
        return 1

    @task(timeout_seconds=limit)
    def timed(x: int) -> int:
        return x

    @flow(timeout_seconds=limit)
    def sub(x: int) -> int:
        return x

    @task(timeout_seconds=limit)
    async def timed_async(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @flow(timeout_seconds=limit)
    async def sub_async(x: int) -> int:
        await asyncio.sleep(0)
        return x

    def made(call: Any, *, waits: bool) -> Any:
        before = first.submit()
        return call(2, wait_for=[before]) if waits else call(before)

    @flow
    def run() -> list[int]:
        submitted: int = made(timed.submit, waits=False).result()
        return [submitted, made(timed, waits=True), made(sub, waits=False), made(sub, waits=True)]

    @flow
    async def run_async() -> list[int]:
        return [
            await made(timed_async.submit, waits=False),
            await made(timed_async, waits=True),
            await made(sub_async, waits=False),
            await made(sub_async, waits=True),
        ]

    assert value_of(run if colour == "sync" else run_async) == [1, 2, 1, 2]


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
