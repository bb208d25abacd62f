"""Asking a run to stop: it stops at its next step; side effects run to their end first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentflow import flow, task, wait_for_event
from agentflow.engine.active import Options
from agentflow.engine.waiting import waker_of
from agentflow.errors import Cancelling, RunCancelled, RunFinishedError, Unwinding
from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.run_context import cancel_run
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


def real_time() -> Options:
    """Delays are real, and would be long; looks at the journal are frequent."""
    return replace(options(suspend=False), clock=time.time, sleep=None, sleep_async=None)


def when(journal: MemoryJournal, event: str, act: Callable[[], object]) -> None:
    """Do something, in a thread of its own, once a row of that kind has been recorded."""
    seen = threading.Event()
    step = journal.append

    def append(number: int, epoch: int, rows: Any, **more: Any) -> None:
        step(number, epoch, rows, **more)
        if any(row.event == event for row in rows):
            seen.set()

    journal.append = append  # what another process would see by looking

    def watch() -> None:
        seen.wait(5)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("where", ["task", "flow", "effect"])
def test_a_delay_between_retries_ends_at_once(colour: str, where: str) -> None:
    """A run that would try again in an hour is cancelled now, and does not try again."""
    journal, tries = memory(), list[int]()
    hour: dict[str, Any] = {"retries": 3, "retry_delay_seconds": 3600}
    for_task: dict[str, Any] = {"task": hour, "effect": hour | {"side_effect": True, "idempotent": True}}.get(
        where, {}
    )

    def body() -> None:
        tries.append(1)
        raise ValueError

    @task(**for_task)
    def fail() -> None:
        body()

    @task(**for_task)
    async def fail_async() -> None:
        body()

    @flow(**(hour if where == "flow" else {}))
    def run() -> None:
        fail()

    @flow(**(hour if where == "flow" else {}))
    async def run_async() -> None:
        await fail_async()

    when(journal, "attempt", lambda: cancel(journal))
    outcome = start(run if colour == "sync" else run_async, journal=journal, using=real_time())
    assert (outcome.state, tries) == (StateType.CANCELLED, [1])


def test_a_sync_body_in_a_thread_is_left_behind_and_refused_its_next_step() -> None:
    """Nobody waits for what cannot be interrupted: not with a time limit, and what it still asks for is refused."""
    journal, go, over = memory(), threading.Event(), threading.Event()
    refused: list[BaseException] = []

    @task
    def step() -> None: ...

    @task(side_effect=True)
    def pay() -> None: ...

    @task(timeout_seconds=3600)
    def stuck() -> None:
        cancel(journal)
        go.wait(5)
        for call in (step, pay, step.submit, lambda: wait_for_event("x").result()):
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - what user code might do
                refused.append(error)
        over.set()

    @flow
    def run() -> None:
        stuck()

    assert start(run, journal=journal, using=real_time()).state is StateType.CANCELLED
    go.set()
    assert over.wait(5)
    assert len(refused) == 4
    assert all(isinstance(error, Unwinding) for error in refused)
    assert rows(journal) == []


@pytest.mark.parametrize("join", ["result", "exception", "wait", "result of all", "wait for all"])
def test_a_join_on_a_thread_that_goes_on_is_woken(join: str) -> None:
    """The flow does not wait for a body that cannot be interrupted."""
    journal, go = memory(), threading.Event()

    @task
    def stuck(_: int) -> None:
        cancel(journal)
        go.wait(5)

    @flow
    def run() -> Any:
        futures = stuck.map([1])
        return {
            "result": futures[0].result,
            "exception": futures[0].exception,
            "wait": futures[0].wait,
            "result of all": futures.result,
            "wait for all": futures.wait,
        }[join]()

    assert start(run, journal=journal, using=real_time()).state is StateType.CANCELLED
    assert not go.is_set()
    go.set()


def test_an_effect_in_a_thread_is_waited_for() -> None:
    """The run ends after it, recorded, although the flow has been unwound long before."""
    journal, unwound, paying = memory(), threading.Event(), threading.Event()

    @task(side_effect=True)
    def pay() -> str:
        paying.set()
        unwound.wait(5)
        return "paid"

    @task
    def step(number: int) -> None: ...

    @flow
    def run() -> None:
        pay.submit()
        paying.wait(5)
        cancel(journal)
        try:
            until_seen(step)
        finally:
            unwound.set()

    assert start(run, journal=journal).state is StateType.CANCELLED
    assert [row.event for row in rows(journal, name="pay")] == ["intent", "completed"]


def test_async_work_is_cancelled_cooperatively() -> None:
    """It sees CancelledError, its `finally` runs, and steps that it begins there are refused."""
    journal = memory()
    seen: list[str] = []

    @task
    async def step() -> None: ...

    @task
    async def work() -> None:
        cancel(journal)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            try:
                await step()
            except Cancelling:
                seen.append("refused")

    @flow
    async def run() -> None:
        await asyncio.gather(work(), asyncio.Event().wait())

    assert start(run, journal=journal, using=options(suspend=False)).state is StateType.CANCELLED
    assert seen == ["cancelled", "refused"]


class SlowJournal(MemoryJournal):
    """A journal in which the end of a step is on its way until somebody lets it land."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.on_its_way, self.land = threading.Event(), threading.Event()

    def try_append(self, number: int, epoch: int, rows: Any) -> bool:
        return False if not self.land.is_set() else super().try_append(number, epoch, rows)

    def append(self, number: int, epoch: int, rows: Any, **more: Any) -> None:
        self.on_its_way.set()
        assert self.land.wait(5)
        super().append(number, epoch, rows, **more)


@pytest.mark.parametrize("branches", [1, 2])
def test_what_is_being_written_is_written_to_its_end(branches: int) -> None:
    """Cancelling catches a step whose end is on its way to the journal: it gets there before the run ends."""
    journal = SlowJournal(b"k" * 32)

    @task
    async def done(number: int) -> int:
        return number

    @flow
    async def run() -> list[int]:
        return await asyncio.gather(*map(done, range(branches))) if branches > 1 else [await done(0)]

    def person() -> None:
        assert journal.on_its_way.wait(5)
        cancel(journal)
        life = waker_of(journal).life_of(1)
        while life is not None and life.fence is None:
            threading.Event().wait(0.001)
        journal.land.set()

    thread = threading.Thread(target=person)
    thread.start()
    assert start(run, journal=journal, using=options(suspend=False)).state is StateType.CANCELLED
    thread.join()
    assert [row.event for row in rows(journal)] == ["completed"] * branches


def test_runs_below_a_run_are_cancelled_with_it() -> None:
    """What a run has started in the background goes the way of the run itself; each says who asked."""
    journal = memory()
    started: list[str] = []

    @flow
    def below() -> Any:
        return wait_for_event("never").result()

    @flow
    def above() -> Any:
        new = below.new_run({}, journal, options(), Origin.PARENT)
        started.append(journal.create_run(new, state=StateType.PENDING).id)
        return wait_for_event("never").result()

    top = start(above, journal=journal).run_id
    below.resume(started[0], journal=journal, options=options())
    cancel_run(top, actor="ann", reason="too late", journal=journal)
    for run_id, message in (
        (top, "cancelled by ann: too late"),
        (started[0], f"cancelled with its parent {top}: cancelled by ann: too late"),
    ):
        stored = journal.get_run(run_id)
        assert stored is not None
        assert (stored.state, stored.message) == (StateType.CANCELLED, message)


def test_a_run_is_cancelled_once_and_the_first_reason_counts() -> None:
    """A second request finds it stopping, a third one ended."""
    journal = memory()

    @task
    def step(number: int) -> None:
        if number == 3:
            for actor in ("ann", "bob"):
                cancel_run(last_run(journal), actor=actor, journal=journal)

    @flow
    def run() -> None:
        until_seen(step)

    outcome = start(run, journal=journal)
    assert str(outcome.error) == "cancelled by ann"
    with pytest.raises(RunFinishedError):
        cancel_run(outcome.run_id, actor="cy", journal=journal)
    stored = journal.get_run(outcome.run_id)
    assert stored is not None
    assert (stored.state, stored.message) == (StateType.CANCELLED, "cancelled by ann")
