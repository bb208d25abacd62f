"""``flow(concurrency_limit=...)`` and limits named ``flow:NAME``: how many runs of a flow are executed at once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from agentflow import flow, sleep
from agentflow.concurrency import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
)
from agentflow.errors import DefinitionError
from agentflow.flows import Flow
from agentflow.journal.protocol import RunFilter
from agentflow.model.limits import Limit
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.workers.inline import InlineWorker
from tests.fundamentals.limits import PATIENCE, Meter, beside, held, take, until, waiting
from tests.fundamentals.lives import Clock, last_run, memory, options, resume, start


def test_runs_of_a_flow_wait_for_each_other() -> None:
    """Beyond the limit a run stays pending, and starts when another one ends."""
    journal = memory()
    begun, go_on = threading.Event(), threading.Event()

    @flow(concurrency_limit=1)
    def nightly(number: int) -> int:
        if number == 1:
            begun.set()
            assert go_on.wait(PATIENCE)
        return number

    with beside(nightly, 1, journal=journal) as first:
        assert begun.wait(PATIENCE)
        with beside(nightly, 2, journal=journal) as second:
            until(lambda: waiting(journal, "flow:nightly"), journal)
            (pending,) = journal.list_runs(RunFilter(states=(StateType.PENDING,)))
            assert (pending.started, journal.is_owned(pending)) == (None, True)
            assert [slot.run_id for slot in waiting(journal, "flow:nightly")] == [pending.id]
            go_on.set()
    assert (first[0].value, second[0].value) == (1, 2)
    assert not held(journal, "flow:nightly")
    ended = journal.get_run(second[0].run_id)
    assert ended is not None
    assert ended.started is not None


def test_an_async_flow_waits_without_blocking_its_loop() -> None:
    """Six runs on one loop, two at once."""
    journal, meter, both = memory(), Meter(), asyncio.Barrier(2)

    @flow(concurrency_limit=2)
    async def nightly(number: int) -> int:
        with meter:
            await both.wait()
        return number

    async def all_of_them() -> list[Any]:
        arguments = [nightly.binder.arguments((number,), {}) for number in range(6)]
        return await asyncio.gather(
            *(nightly.run_async(one, journal=journal, options=options()) for one in arguments)
        )

    assert [outcome.value for outcome in asyncio.run(all_of_them())] == list(range(6))
    assert (meter.most, meter.times) == (2, 6)


def test_a_run_that_does_not_wait_is_cancelled() -> None:
    """CANCEL_NEW: it ends at once and says who is in the way; runs that had begun are not touched by it."""
    journal, clock = memory(), Clock()
    cancels = ConcurrencyLimitConfig(1, ConcurrencyLimitStrategy.CANCEL_NEW)

    @flow(concurrency_limit=cancels)
    def nightly() -> str:
        sleep(60).result()
        return "done"

    paused = start(nightly, journal=journal, using=options(clock))
    take(journal, "flow:nightly")
    outcome = start(nightly, journal=journal)
    assert outcome.state is StateType.CANCELLED
    cancelled = journal.get_run(outcome.run_id)
    assert cancelled is not None
    assert cancelled.message.startswith(
        "no free slot, and nightly does not wait: a slot of flow:nightly (limit 1"
    )
    clock.now += 61
    until_resumed: list[Any] = []
    thread = threading.Thread(
        target=lambda: until_resumed.append(resume(nightly, paused.run_id, journal, options(clock)))
    )
    thread.start()
    until(lambda: waiting(journal, "flow:nightly"), journal)
    journal.release_slots(["other"])
    thread.join(PATIENCE)
    assert until_resumed[0].value == "done"


def test_a_waiting_run_can_be_cancelled() -> None:
    """It never starts."""
    journal = memory()

    @flow(concurrency_limit=1)
    def nightly() -> None:
        raise AssertionError

    journal.set_limit(Limit("flow:nightly", 1))
    take(journal, "flow:nightly")
    with beside(nightly, journal=journal) as ended:
        until(lambda: waiting(journal, "flow:nightly"), journal)
        journal.request_cancel(last_run(journal), "not today")
    assert ended[0].state is StateType.CANCELLED
    assert [slot.claim for slot in held(journal, "flow:nightly")] == ["other"]


def test_a_person_overrides_what_the_code_says() -> None:
    """A limit that was set from outside wins over the decorator; one of the code follows the code."""
    journal = memory()

    def of(limit: int | None) -> Flow[..., Any]:
        @flow(name="nightly", concurrency_limit=limit)
        def nightly() -> None: ...

        return nightly

    start(of(2), journal=journal)
    assert [limit.limit for limit in journal.list_limits()] == [2]
    start(of(3), journal=journal)
    assert [limit.limit for limit in journal.list_limits()] == [3]
    start(of(None), journal=journal)
    assert journal.list_limits() == []
    journal.set_limit(Limit("flow:nightly", 7))
    start(of(2), journal=journal)
    assert [limit.limit for limit in journal.list_limits()] == [7]


def test_a_run_that_leaves_memory_gives_its_slot_to_another_run() -> None:
    """A run that waits for a day does not keep others from running."""
    journal, clock = memory(), Clock()

    @flow(concurrency_limit=1)
    def nightly(long: bool) -> str:
        if long:
            sleep(86_400).result()
        return "done"

    paused = start(nightly, True, journal=journal, using=options(clock))
    assert paused.state is StateType.PAUSED
    assert start(nightly, False, journal=journal).value == "done"
    clock.now += 86_401
    assert resume(nightly, paused.run_id, journal, options(clock)).value == "done"


def test_a_limit_below_one_is_refused_at_definition() -> None:
    """A flow that could never run is a mistake."""
    with pytest.raises(DefinitionError, match="at least 1"):
        flow(concurrency_limit=0)(lambda: None)


def test_a_worker_takes_up_a_run_when_a_slot_is_free() -> None:
    """Until then the run belongs to nobody, and costs no thread."""
    journal, meter, go_on = memory(), Meter(), threading.Semaphore(0)

    @flow(concurrency_limit=2)
    def nightly(number: int) -> int:
        with meter:
            assert go_on.acquire(timeout=PATIENCE)
        return number

    with InlineWorker(
        journal, {"nightly": nightly}, options=replace(options(), suspend_after=60.0)
    ) as worker:
        runs = [worker.start_run("nightly", {"number": n}, origin=Origin.PERSON) for n in range(6)]
        until(lambda: meter.now == 2, journal)
        worker.recover()
        pending = journal.list_runs(RunFilter(states=(StateType.PENDING,)))
        assert [run.id for run in pending] == [run.id for run in reversed(runs[2:])]
        assert not any(journal.is_owned(run) for run in pending)
        assert not waiting(journal, "flow:nightly")
        for _ in runs:
            go_on.release()
        until(lambda: len(journal.list_runs(RunFilter(states=(StateType.COMPLETED,)))) == 6, journal)
    assert (meter.most, meter.times) == (2, 6)


def test_several_workers_keep_to_a_limit_together() -> None:
    """Two of them, thirty runs, two at once."""
    journal, meter = memory(), Meter()

    @flow(concurrency_limit=2)
    def nightly(number: int) -> int:
        with meter:
            return number

    flows, using = {"nightly": nightly}, replace(options(), suspend_after=60.0)
    with InlineWorker(journal, flows, options=using) as one, InlineWorker(journal, flows, options=using):
        for number in range(30):
            one.start_run("nightly", {"number": number}, origin=Origin.PERSON)
        until(lambda: len(journal.list_runs(RunFilter(states=(StateType.COMPLETED,)))) == 30, journal)
    assert meter.times == 30
    assert meter.most <= 2


def test_a_run_of_a_worker_that_does_not_wait_is_cancelled() -> None:
    """A worker does not hold back what is to be cancelled."""
    journal = memory()
    take_all = Limit("flow:nightly", 1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    journal.set_limit(take_all)
    take(journal, "flow:nightly")

    @flow
    def nightly() -> None:
        raise AssertionError

    with InlineWorker(
        journal, {"nightly": nightly}, options=replace(options(), suspend_after=60.0)
    ) as worker:
        run = worker.start_run("nightly", {}, origin=Origin.PERSON)
        assert worker.await_run(run.id, PATIENCE).state is StateType.CANCELLED


def test_a_flow_inside_of_a_flow_needs_no_slot_of_its_own() -> None:
    """It is a step of the run around it: with a limit of 1 a flow may call itself."""
    journal = memory()

    @flow(concurrency_limit=1)
    def countdown(number: int) -> int:
        return countdown(number - 1) if number else 0

    assert start(countdown, 3, journal=journal).value == 0
    assert not held(journal, "flow:countdown")
