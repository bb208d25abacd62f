"""What ends a process is no outcome of a run."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from agentflow import flow, sleep, task, wait_for_event
from agentflow.engine.active import Options
from agentflow.engine.awakening import wait_until_set
from agentflow.engine.waiting import waker_of
from agentflow.errors import Stopping
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import RunFilter
from agentflow.model.limits import Limit
from agentflow.model.runs import Run
from agentflow.model.states import State, StateType
from agentflow.run_context import cancel_run
from tests.fundamentals.lives import Clock, last_run, memory, options, resume, rows, start


class Halt(BaseException):
    """Of the user's own, and no `Exception`."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, Halt])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_interrupts_the_process_interrupts_the_run(kind: type[BaseException], colour: str) -> None:
    """It is re-raised, never retried by task or flow, and the run is given back to be resumed."""
    calls: list[int] = []

    @task(retries=3)
    def interrupted() -> int:
        calls.append(1)
        raise kind

    @task(retries=3)
    async def interrupted_async() -> int:
        calls.append(1)
        raise kind

    @flow(retries=3)
    def run() -> int:
        return interrupted()

    @flow(retries=3)
    async def run_async() -> int:
        return await interrupted_async()

    journal = memory()
    with pytest.raises(kind):
        start(run if colour == "sync" else run_async, journal=journal)
    assert calls == [1]
    (due,) = journal.due_runs(0.0)
    assert due.state is StateType.RUNNING


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["sub-flow", "thread", "async task", "async branch"])
def test_an_interrupt_anywhere_below_interrupts_the_whole_run(kind: type[BaseException], where: str) -> None:
    """In a sub-flow, a submitted thread, an async task: the run is given back, and resumes with what was done."""
    journal, tries = memory(), list[int]()

    @task
    def first() -> int:
        return 1

    @task(retries=2)
    def interrupted() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise kind
        return 2

    @task(retries=2)
    async def interrupted_async() -> int:
        return interrupted.fn()

    async def nothing() -> int:
        return 0

    @flow
    def below() -> int:
        return interrupted()

    @flow(name="run")
    def run() -> int:
        return first() + (below() if where == "sub-flow" else interrupted.submit().result())

    @flow(name="run")
    async def run_async() -> int:
        one = first()
        if where == "async task":
            return one + await interrupted_async()
        return one + sum(await asyncio.gather(interrupted_async(), nothing()))

    which = run if where in ("sub-flow", "thread") else run_async
    with pytest.raises(kind):
        start(which, journal=journal)
    (due,) = journal.due_runs(0.0)
    assert (due.state, due.owner) == (StateType.RUNNING, "")
    outcome = resume(which, due.id, journal)
    assert (outcome.value, outcome.tally.reused, len(tries)) == (3, 1, 2)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_interrupt_in_a_sub_flow_ends_neither_it_nor_the_flow_around_it(colour: str) -> None:
    """Nobody can catch it half-way and go on; no end is recorded of either, no hook runs, and both go on later."""
    journal, tries, told = memory(), list[int](), list[str]()

    def hook(*_: Any) -> None:
        told.append("an end")

    hooks: dict[str, Any] = dict.fromkeys(("on_failure", "on_crashed", "on_cancellation"), hook)

    def interrupted_once() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return 2

    @task
    def begun() -> int:
        return 1

    @flow(name="below", retries=2, **hooks)
    def below() -> int:
        return begun() + interrupted_once()

    @flow(name="below", retries=2, **hooks)
    async def below_async() -> int:
        return begun() + interrupted_once()

    @flow(name="above", retries=2, **hooks)
    def above() -> int:
        return below()

    @flow(name="above", retries=2, **hooks)
    async def above_async() -> int:
        return await below_async()

    which = above if colour == "sync" else above_async
    with pytest.raises(KeyboardInterrupt):
        start(which, journal=journal)
    assert [row.name for row in rows(journal, "completed", "failed", "attempt")] == ["begun"]
    (due,) = journal.due_runs(0.0)
    assert (due.state, due.owner, due.crashes, told) == (StateType.RUNNING, "", 0, [])
    outcome = resume(which, due.id, journal)
    assert (outcome.value, outcome.tally.reused, len(tries)) == (3, 1, 2)


def test_an_interrupted_run_leaves_its_threads_behind_and_waits_for_their_effects() -> None:
    """What cannot be interrupted is refused its next step; a side effect ends, recorded, before the run is let go."""
    journal, go, refused = memory(), threading.Event(), threading.Event()
    begun = threading.Barrier(3)

    @task
    def step() -> None: ...

    @task
    def stuck() -> None:
        begun.wait(5)
        go.wait(5)
        try:
            step()
        except Stopping:
            refused.set()

    @task(side_effect=True)
    def pay() -> str:
        begun.wait(5)
        waker_of(journal).poke()
        time_passes()
        return "paid"

    @flow
    def run() -> None:
        stuck.submit()
        pay.submit()
        begun.wait(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(run, journal=journal)
    assert [row.event for row in rows(journal)] == ["intent", "completed"]
    go.set()
    assert refused.wait(5)


def time_passes() -> None:
    """Let the other threads come far enough to do what they should not."""
    for _ in range(20):
        threading.Event().wait(0.001)


def drain(journal: MemoryJournal) -> None:
    """The process is told to end."""
    life = waker_of(journal).life_of(1)
    assert life is not None
    life.drain()
    waker_of(journal).poke()


def patient() -> Options:
    """Delays are real, and would be long."""
    return replace(options(suspend=False), clock=time.time, sleep=None, sleep_async=None)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_process_that_is_to_end_lets_running_steps_end_and_begins_no_more(colour: str) -> None:
    """What has begun is recorded, what has not is not begun; the run is given back and nothing is done twice."""
    journal, done = memory(), list[str]()

    @task
    def first() -> str:
        if not done:
            drain(journal)
        done.append("first")
        return "first"

    @task
    def second() -> str:
        done.append("second")
        return "second"

    @task
    async def first_async() -> str:
        await asyncio.sleep(0)
        return first.fn()

    @task
    async def second_async() -> str:
        return second.fn()

    @flow(name="run")
    def run() -> list[str]:
        return [first(), second()]

    @flow(name="run")
    async def run_async() -> list[str]:
        async def branch() -> str:
            await asyncio.sleep(0)
            return await second_async()

        return list(await asyncio.gather(first_async(), branch()))

    which = run if colour == "sync" else run_async
    with pytest.raises(Stopping):
        start(which, journal=journal, using=patient())
    (due,) = journal.due_runs(0.0)
    assert (due.state, due.owner) == (StateType.RUNNING, "")
    assert resume(which, due.id, journal).value == ["first", "second"]
    assert sorted(done) == ["first", "second"]
    stored = journal.get_run(due.id)
    assert stored is not None
    assert stored.crashes == 0


def test_a_process_that_is_to_end_waits_for_bodies_in_other_threads() -> None:
    """One that is at work when the others are held still ends, recorded."""
    journal, begun, go, done = memory(), threading.Event(), threading.Event(), list[int]()

    @task
    def slow(number: int) -> int:
        begun.set()
        go.wait(5)
        time_passes()
        done.append(number)
        return number

    @task
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    @task
    def begin() -> None:
        assert begun.wait(60)
        drain(journal)
        go.set()

    @flow
    def run() -> int:
        futures = slow.map([1, 2, 3])
        begin()
        return add([future.result() for future in futures])

    with pytest.raises(Stopping):
        start(run, journal=journal, using=patient())
    started = len(done)
    assert started
    assert len(rows(journal, "completed", name="slow")) == started
    assert resume(run, last_run(journal), journal).value == 6
    assert sorted(done) == [1, 2, 3]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("where", ["task", "flow"])
def test_a_process_that_is_to_end_does_not_wait_for_a_delay_between_retries(colour: str, where: str) -> None:
    """The run is given back with the time that is left, and does not try again before it."""
    journal, tries = memory(), list[int]()
    hour: dict[str, Any] = {"retries": 1, "retry_delay_seconds": 3600}

    @task(**(hour if where == "task" else {}))
    def fail() -> int:
        tries.append(1)
        if len(tries) == 1:
            threading.Thread(target=once_recorded, daemon=True).start()
            raise ValueError
        return 1

    @task(**(hour if where == "task" else {}))
    async def fail_async() -> int:
        return fail.fn()

    @flow(name="run", **(hour if where == "flow" else {}))
    def run() -> int:
        return fail()

    @flow(name="run", **(hour if where == "flow" else {}))
    async def run_async() -> int:
        return await fail_async()

    def once_recorded() -> None:
        while not rows(journal, "attempt"):
            threading.Event().wait(0.001)
        drain(journal)

    which = run if colour == "sync" else run_async
    with pytest.raises(Stopping):
        start(which, journal=journal, using=patient())
    assert tries == [1]
    clock = Clock()
    assert resume(which, last_run(journal), journal, options(clock)).value == 1
    (slept,) = [seconds for seconds in clock.slept if seconds > 0]
    assert 3500 < slept <= 3600


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_process_that_is_to_end_evicts_what_waits(colour: str) -> None:
    """A run that only waits is PAUSED, as if its time in memory had been up."""
    journal = memory()

    @flow
    def run() -> Any:
        return wait_for_event("never").result()

    @flow
    async def run_async() -> Any:
        return await asyncio.gather(wait_for_event("never"), sleep(3600))

    def once_open() -> None:
        while len(journal.list_waits()) < (1 if colour == "sync" else 2):  # all that it begins
            threading.Event().wait(0.001)
        drain(journal)

    threading.Thread(target=once_open, daemon=True).start()
    outcome = start(run if colour == "sync" else run_async, journal=journal, using=patient())
    assert outcome.state is StateType.PAUSED
    assert journal.due_runs(0.0) == []


@pytest.mark.parametrize("way", ["called", "submitted", "async"])
def test_a_process_that_is_to_end_does_not_wait_for_a_slot(way: str) -> None:
    """Nor for submitted work that waits for one and has not begun: it is given back at once."""
    journal = memory()
    journal.set_limit(Limit("tag:db", 0))

    @task(tags=["db"])
    def one() -> int:
        return 1

    @flow(name="run")
    def run() -> int:
        return one() if way == "called" else one.submit().result()

    @flow(name="run")
    async def run_async() -> int:
        return await one.submit()

    def once_it_waits() -> None:
        while not journal.list_slots(waiting_only=True):
            threading.Event().wait(0.001)
        drain(journal)

    threading.Thread(target=once_it_waits, daemon=True).start()
    which = run_async if way == "async" else run
    with pytest.raises(Stopping):
        start(which, journal=journal, using=patient())
    journal.set_limit(Limit("tag:db", 1))
    assert resume(which, last_run(journal), journal).value == 1


class Awaited(threading.Event):
    """Tells that somebody begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.set()
        return super().wait(timeout)


def test_a_signal_that_does_not_wake_the_blocked_main_thread_is_heard() -> None:
    """Another thread of the process gets it, or it comes just as the main thread begins to block."""
    event = Awaited()

    def halt(*_: Any) -> None:
        raise Halt

    def strike() -> None:
        assert event.begun.wait(60)
        time_passes()
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, halt)
    try:
        threading.Thread(target=strike, daemon=True).start()
        with pytest.raises(Halt):
            wait_until_set(event, 60)
    finally:
        signal.signal(signal.SIGUSR1, before)


class SlowToEnd(MemoryJournal):
    """Takes its time over how a life ended: until the caller of the flow has been cancelled."""

    def __init__(self, verb: str) -> None:
        super().__init__(b"k" * 32)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._verb = verb

    def _slowly(self, verb: str) -> None:
        if verb == self._verb:
            self.reached.set()
            assert self.go_on.wait(60)

    def get_run(self, run_id: str) -> Run | None:
        self._slowly("get_run")
        return super().get_run(run_id)

    def set_state(self, *args: Any, **options: Any) -> None:
        self._slowly("set_state")
        super().set_state(*args, **options)


@pytest.mark.parametrize("ends", ["completed", "interrupted", "cancelled"])
@pytest.mark.parametrize("times", [1, 3])
async def test_who_cancels_a_flow_as_it_ends_waits_until_that_is_recorded(ends: str, times: int) -> None:
    """Else a run that nobody works at would be owned until the process ends; its hooks have run as well."""
    journal = SlowToEnd("get_run" if ends == "interrupted" else "set_state")
    told = list[str]()

    def hook(_flow: Any, _run: Any, state: State[Any]) -> None:
        told.append(state.name)

    @flow(on_completion=[hook], on_cancellation=[hook])
    async def run() -> int:
        if ends == "interrupted":
            raise asyncio.CancelledError
        if ends == "cancelled":
            (own,) = journal.list_runs(RunFilter())
            cancel_run(own.id, actor="ann", journal=journal)
            await asyncio.Event().wait()
        return 1

    caller = asyncio.ensure_future(run.run_async({}, journal=journal, options=options()))
    assert await asyncio.to_thread(journal.reached.wait, 60)
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    journal.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    (left,) = journal.list_runs(RunFilter())
    assert not journal.is_owned(left)
    names = {"completed": ["Completed"], "interrupted": [], "cancelled": ["Cancelled"]}
    assert told == names[ends]
    assert left.state is (StateType.RUNNING if ends == "interrupted" else StateType(ends.upper()))
