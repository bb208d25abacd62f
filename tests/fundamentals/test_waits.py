"""Waiting for a time, an event, a person: in memory or out of it, in whatever shape the flow waits."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from agentflow import (
    ApprovalDenied,
    WaitTimeoutError,
    flow,
    request_input,
    send_event,
    sleep,
    task,
    wait_for_event,
)
from agentflow.approvals.decisions import decide
from agentflow.errors import AgentflowError, DecisionRefusedError, ParameterError, RunFinishedError
from agentflow.flows import Flow
from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from agentflow.model.waits import Channel, Verdict
from tests.fundamentals.lives import (
    Clock,
    answer,
    last_run,
    memory,
    open_wait,
    options,
    resume,
    start,
    value_of,
)


def evicted(flow: Flow[..., Any], journal: MemoryJournal, *args: Any) -> str:
    """Start a run that leaves memory to wait; its id."""
    outcome = start(flow, *args, journal=journal)
    assert outcome.state is StateType.PAUSED, outcome
    return outcome.run_id


def after_events(flow: Flow[..., Any], journal: MemoryJournal, *names: str) -> Any:
    """Send the events one by one, with a life after each; what the run returns at last."""
    run_id = evicted(flow, journal)
    outcome: Any = None
    for name in names:
        send_event(run_id, name, name, journal=journal)
        outcome = resume(flow, run_id, journal)
        if outcome.error is not None:
            raise outcome.error
    assert outcome.state is StateType.COMPLETED, outcome
    return outcome.value


async def one(name: str) -> str:
    return await wait_for_event(name)


async def in_gather() -> list[Any]:
    return list(await asyncio.gather(one("a"), one("b"), wait_for_event("c")))


async def in_task_group() -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(name)) for name in "abc"]
    return [each.result() for each in tasks]


async def in_wait_for() -> list[Any]:
    return [await asyncio.wait_for(one(name), None) for name in "abc"]


async def in_shield() -> list[Any]:
    return [await asyncio.shield(one(name)) for name in "abc"]


async def in_queue() -> list[Any]:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def produce() -> None:
        for name in "abc":
            await queue.put(await wait_for_event(name))

    producer = asyncio.create_task(produce())
    found = [await queue.get() for _ in range(3)]
    await producer
    return found


async def in_nested_tasks() -> list[Any]:
    @task
    async def inner(name: str) -> str:
        return await wait_for_event(name)

    @task
    async def outer(name: str) -> str:
        return await inner(name)

    return [await outer(name) for name in "abc"]


async def with_swallowed_exceptions() -> list[Any]:
    found: list[Any] = []
    for name in "abc":
        try:
            found.append(await wait_for_event(name))
        except BaseException:  # noqa: BLE001 - what the engine must survive
            found.append("swallowed")
    return found


async def with_finally() -> list[Any]:
    found: list[Any] = []

    @task
    async def clean(name: str) -> str:
        await asyncio.sleep(0)
        return name

    for name in "abc":
        try:
            found.append(await wait_for_event(name))
        finally:
            await clean(name)
    return found


async def in_returned_exceptions() -> list[Any]:
    return list(await asyncio.gather(*[one(name) for name in "abc"], return_exceptions=True))


async def in_threads() -> list[Any]:
    @task
    def blocking(name: str) -> str:
        return wait_for_event(name).result()

    return [await future for future in blocking.map(["a", "b", "c"])]


SHAPES = [
    in_gather,
    in_task_group,
    in_wait_for,
    in_shield,
    in_queue,
    in_nested_tasks,
    with_swallowed_exceptions,
    with_finally,
    in_returned_exceptions,
    in_threads,
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_waiting_run_leaves_memory_and_comes_back(shape: Any) -> None:
    """Whatever the shape of the waiting code, eviction is never an outcome of it."""
    assert after_events(flow(shape), memory(), "a", "b", "c") == ["a", "b", "c"]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_answers_may_come_before_the_wait(shape: Any) -> None:
    """Events that were sent before anybody waited count; the run need not leave memory."""
    journal = memory()
    which = flow(shape)

    @task
    def send() -> None:
        for name in "abc":
            send_event(last_run(journal), name, name, journal=journal)

    async def run() -> Any:
        send()
        return await shape()

    assert start(flow(name=which.name)(run), journal=journal).value == ["a", "b", "c"]


def test_a_sync_flow_waits_with_result() -> None:
    """`.result()` blocks; the thread is unwound when the run leaves memory."""
    unwound: list[str] = []

    @flow
    def run() -> list[Any]:
        try:
            return [wait_for_event("a").result(), wait_for_event("b").result()]
        finally:
            unwound.append("finally")

    assert after_events(run, memory(), "a", "b") == ["a", "b"]
    assert unwound == ["finally"] * 3


def test_a_sleeping_run_wakes_when_its_time_has_come() -> None:
    """The time counts from the first life."""

    @flow
    def run() -> str:
        sleep(dt.timedelta(hours=2)).result()
        return "awake"

    journal, clock = memory(), Clock(1_000.0)
    outcome = start(run, journal=journal, using=options(clock))
    assert outcome.state is StateType.PAUSED
    assert open_wait(journal).due == 8_200.0
    clock.now = 8_199.0
    assert journal.due_runs(clock.now) == []
    clock.now = 8_200.0
    assert [due.id for due in journal.due_runs(clock.now)] == [outcome.run_id]
    assert resume(run, outcome.run_id, journal, options(clock)).value == "awake"


def test_a_wait_that_nobody_answers_times_out() -> None:
    """`WaitTimeoutError`, which the flow can catch, also in a later life."""

    @flow
    def run() -> str:
        try:
            return wait_for_event("never", timeout=60).result()
        except WaitTimeoutError as error:
            return str(error)

    journal, clock = memory(), Clock(0.0)
    run_id = start(run, journal=journal, using=options(clock)).run_id
    clock.now = 61.0
    outcome = resume(run, run_id, journal, options(clock))
    assert outcome.value == "nobody answered 'never' within 60 s"


class Answer(BaseModel):
    amount: int


def test_a_person_is_asked_and_the_answer_validated() -> None:
    """An answer of the wrong form is refused and the question stays open; the right one is the result."""

    @flow
    def run() -> int:
        return request_input("How much?", Answer).result().amount

    journal = memory()
    run_id = evicted(run, journal)
    wait = open_wait(journal)
    assert wait.question == {"message": "How much?"}
    assert wait.schema["properties"]["amount"]["type"] == "integer"
    with pytest.raises(DecisionRefusedError, match="amount"):
        answer(journal, Verdict.ANSWERED, {"amount": "many"})
    answer(journal, Verdict.ANSWERED, {"amount": 5})
    assert resume(run, run_id, journal).value == 5


def test_a_person_may_decline_to_answer() -> None:
    """Then the flow gets `ApprovalDenied`, with the reason."""

    @flow
    def run() -> str:
        try:
            return request_input("Why?").result()
        except ApprovalDenied as error:
            return error.reason

    journal = memory()
    run_id = evicted(run, journal)
    answer(journal, Verdict.DENIED, reason="because")
    assert resume(run, run_id, journal).value == "because"


def test_an_answer_while_the_run_is_in_memory_goes_to_it_at_once() -> None:
    """No eviction, no new life: the waiting branch goes on."""
    journal = memory()
    asked = threading.Event()

    def person() -> None:
        asked.wait(5)
        decide(journal, open_wait(journal).id, Verdict.ANSWERED, answer="now", channel=Channel.CODE)

    journal.subscribe(lambda: asked.set() if journal.list_waits() else None)
    thread = threading.Thread(target=person)
    thread.start()

    @flow
    def run() -> str:
        return request_input("?").result()

    assert start(run, journal=journal, using=options(suspend=False)).value == "now"
    thread.join()


def test_each_event_goes_to_one_wait_in_order() -> None:
    """Two waits of one name take two events; the payload is validated as asked."""

    @flow
    def run() -> list[int]:
        return [wait_for_event("n", int).result(), wait_for_event("n", int).result()]

    journal = memory()
    run_id = evicted(run, journal)
    assert send_event(run_id, "n", "1", journal=journal) is True
    assert send_event(run_id, "n", "2", journal=journal) is False
    assert resume(run, run_id, journal).value == [1, 2]
    with pytest.raises(RunFinishedError):
        send_event(run_id, "n", journal=journal)


def test_waits_keep_their_answers_over_many_lives() -> None:
    """An answer is asked for once, however often the run comes back."""

    @flow
    async def run() -> list[Any]:
        return list(await asyncio.gather(request_input("a"), request_input("b")))

    journal = memory()
    run_id = evicted(run, journal)
    for expected in (2, 1):
        waits = journal.list_waits()
        assert len(waits) == expected
        decide(journal, waits[0].id, Verdict.ANSWERED, answer=waits[0].name, channel=Channel.CODE)
        outcome = resume(run, run_id, journal)
    assert outcome.value == ["a", "b"]


def test_a_run_with_work_in_progress_does_not_leave_memory() -> None:
    """A task that is being executed keeps the run, however long another branch has waited."""
    journal = memory()
    done: list[str] = []

    @task
    def works() -> str:
        clock_end = time.monotonic() + 0.1
        while time.monotonic() < clock_end:
            pass
        done.append("worked")
        return "worked"

    @flow
    async def run() -> Any:
        future = works.submit()
        return [await wait_for_event("a"), await future]

    run_id = evicted(run, journal)
    assert done == ["worked"]
    send_event(run_id, "a", 1, journal=journal)
    assert resume(run, run_id, journal).value == [1, "worked"]
    assert done == ["worked"]


def test_a_wait_inside_of_a_side_effect_is_refused() -> None:
    """It would leave the effect's end unknown; wait before it."""

    @task(side_effect=True)
    def pay() -> Any:
        return wait_for_event("a").result()

    @flow
    def run() -> Any:
        return pay()

    with pytest.raises(AgentflowError, match="wait before it"):
        value_of(run)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_senseless_durations_are_refused(seconds: float) -> None:
    """A wait has a finite length that is not negative."""

    @flow
    def run() -> None:
        sleep(seconds).result()

    with pytest.raises(ParameterError, match="finite"):
        value_of(run)


def test_a_forgotten_wait_fails_the_run() -> None:
    """A wait that nobody awaited did not wait."""

    @flow
    async def run() -> None:
        sleep(5)

    assert "never awaited: sleep" in str(start(run).error)
