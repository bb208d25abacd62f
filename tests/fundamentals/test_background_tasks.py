"""Background tasks: `delay` asks for a task from anywhere, a process that serves the task runs it, durably."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from agentflow import (
    Flow,
    NotDone,
    Task,
    as_completed,
    first,
    flow,
    get_run_context,
    serve,
    sleep,
    tags,
    task,
    unmapped,
)
from agentflow.errors import (
    ApprovalDenied,
    ColourError,
    DefinitionError,
    ParameterError,
    RunCancelled,
    RunNotFoundError,
    UsageError,
)
from agentflow.futures import RunFuture, wait
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from agentflow.payloads.codec import Codec
from agentflow.shells import WORKER_VARIABLE
from agentflow.workers.inline import InlineWorker
from tests.fundamentals.lives import (
    KEY,
    Death,
    always,
    answer,
    last_run,
    memory,
    options,
    resume,
    rows,
    start,
)


@task
def double(x: int) -> int:
    return 2 * x


@task
async def double_async(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> MemoryJournal:
    """The journal that code outside of any flow finds."""
    found = memory()
    monkeypatch.setattr("agentflow.background.open_journal", always(found))
    monkeypatch.setenv("AGENTFLOW_POLL_INTERVAL", "0.01")
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    return found


@contextmanager
def serving(
    journal: Journal, *tasks: Task[..., Any], gate: bool = False, limit: int | None = None
) -> Generator[InlineWorker, None, None]:
    """A process that serves these tasks."""
    worker = InlineWorker(journal, {}, tasks=tasks, limit=limit, options=options(gate=gate))
    with worker:
        yield worker


def die_first(flow: Flow[..., Any], journal: Journal) -> str:
    """A first life that dies; returns the id of the flow's own run."""
    with pytest.raises(Death):
        start(flow, journal=journal)
    return journal.list_runs(RunFilter(flow=flow.name))[0].id


def newest(journal: Journal) -> Run:
    return journal.list_runs(RunFilter(limit=1))[0]


@pytest.mark.parametrize("asked", [double, double_async], ids=["sync", "async"])
def test_a_delayed_task_waits_for_whoever_serves_it(asked: Any, journal: MemoryJournal) -> None:
    """Its run is stored at once, and belongs to nobody until a worker takes it up."""
    future = asked.delay(21)
    assert future.state is StateType.PENDING
    assert not future.wait(0)
    with pytest.raises(TimeoutError, match="has not ended"):
        future.result(timeout=0)
    run = newest(journal)
    assert (run.id, run.flow, run.owner) == (future.run_id, f"task:{asked.name}", "")
    with serving(journal, asked):
        assert future.result(timeout=10) == 42
    assert future.done()
    assert [row.name for row in journal.steps(run.number)] == [asked.name]


def test_apply_async_takes_the_arguments_as_they_are(journal: MemoryJournal) -> None:
    """A sequence and a mapping; they reach the task in their order, whatever their names."""

    @task
    def collect(a: int, /, *args: int, b: int = 0, **kwargs: int) -> list[Any]:
        return [a, list(args), b, kwargs]

    future = collect.apply_async((1, 2, 3), {"b": 4, "a": 5, "keys": 6})
    with serving(journal, collect):
        assert future.result(timeout=10) == [1, [2, 3], 4, {"a": 5, "keys": 6}]


def test_a_deferred_map_delays_the_task_for_each_item(journal: MemoryJournal) -> None:
    """Anywhere, also outside of flows; the handles are in the order of the items, and can be waited for together."""

    @task
    def add(x: int, y: int, *, factor: int) -> int:
        if x < 0:
            raise ValueError(x)
        return (x + y) * factor

    futures = add.map([1, 2, 3], unmapped(10), factor=iter([1, 2, 3]), deferred=True)
    assert add.map([], unmapped(1), factor=[], deferred=True).result() == []
    assert not futures.wait(0)
    with pytest.raises(TimeoutError, match="has not ended"):
        futures.result(timeout=0)
    failing = add.map([-1, 1], [0, 0], factor=unmapped([1][0]), deferred=True)
    with serving(journal, add):
        assert futures.result(timeout=10) == [11, 24, 39]
        assert futures.wait(0)
        with pytest.raises(ValueError, match="-1"):
            failing.result(timeout=10)
        values = failing.result(timeout=10, raise_on_failure=False)
    assert [type(values[0]), values[1]] == [ValueError, 1]
    for wrong in ([1], [1, 2]), (1, 2):
        with pytest.raises(ValueError, match=r"add.map\(deferred=True\) got .*unmapped"):
            add.map(*wrong, factor=unmapped(1), deferred=True)


async def test_deferred_calls_are_awaited_together(journal: MemoryJournal) -> None:
    """On a loop, without blocking it."""
    futures = double_async.map([1, 2], deferred=True)
    with serving(journal, double_async):
        assert await futures == [2, 4]


def test_a_deferred_map_in_a_flow_asks_once() -> None:
    """Each of its calls is a step."""
    alive: list[bool] = []
    store = memory()

    @flow
    def run() -> list[str]:
        futures = double.map([1, 2, 2], deferred=True)
        if not alive:
            alive.append(True)
            raise Death
        return [future.run_id for future in futures]

    run_id = die_first(run, store)
    asked = {item.id for item in store.list_runs(RunFilter())} - {run_id}
    assert set(resume(run, run_id, store).value) == asked
    assert len(asked) == 3


def test_methods_and_generators_can_be_delayed(journal: MemoryJournal) -> None:
    """The object of a method is stored like an argument; the items of a generator are a list."""

    @task
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @task
    async def count_async(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    futures = [Shop(3).price.delay(4), count.delay(2), count_async.delay(2)]
    with serving(journal, Shop.price, count, count_async):
        assert [future.result(timeout=10) for future in futures] == [12, [0, 1], [0, 1]]


class Shop:
    def __init__(self, rate: int) -> None:
        self.rate = rate

    @task
    def price(self, amount: int) -> int:
        return amount * self.rate


def test_a_future_is_read_from_anywhere(journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a name: pickled, stored as a value, made anew from the id."""
    future = double.delay(1)
    codec = Codec(KEY)
    others = [
        pickle.loads(pickle.dumps(future)),  # noqa: S301 - our own
        codec.decode(codec.encode(future)),
        RunFuture[int](future.run_id, "double"),
    ]
    with serving(journal, double):
        assert [other.result(timeout=10) for other in others] == [2, 2, 2]
    assert all(other == future for other in others)


async def test_a_future_is_awaited_and_never_blocks_a_loop(journal: MemoryJournal) -> None:
    """`await` it on a thread whose event loop runs; there `result` refuses, unless the run has ended."""
    future = double.delay(3)
    with pytest.raises(ColourError, match="await"):
        future.result()
    with serving(journal, double):
        assert await future == 6
    assert future.result() == 6


def test_a_failure_comes_back_as_it_was_raised(journal: MemoryJournal) -> None:
    """After the retries of the task; or as a value, where that is asked for."""
    attempts: list[int] = []

    @task(retries=2)
    def failing() -> None:
        attempts.append(get_run_context().attempt)
        raise KeyError("broken")

    future = failing.delay()
    with serving(journal, failing):
        with pytest.raises(KeyError, match="broken"):
            future.result(timeout=10)
        assert isinstance(future.result(raise_on_failure=False), KeyError)
    assert attempts == [1, 2, 3]
    assert future.state is StateType.FAILED


def test_a_cancelled_run_says_so(journal: MemoryJournal) -> None:
    """Cancelled before anybody has taken it up."""
    future = double.delay(1)
    journal.request_cancel(future.run_id, "no longer wanted")
    with pytest.raises(RunCancelled, match="no longer wanted"):
        future.result()


def test_runs_in_the_background_are_no_futures_of_submitted_tasks() -> None:
    """What waits for those says what to do instead; `first` races with any of them."""

    @flow
    async def run() -> Any:
        future = double.delay(1)
        for what in (cast("Any", as_completed), cast("Any", wait)):
            with pytest.raises(UsageError, match="not a RunFuture; ask it for its result"):
                what([future])
        return await first(done=future, late=sleep(3600))

    store = memory()
    with serving(store, double):
        won = start(run, journal=store).value
    assert (won.which, won.value) == ("done", 2)


def test_a_run_that_is_not_there_is_an_error(journal: MemoryJournal) -> None:
    """Of another journal, or a slip of the pen; so is a patience that is negative."""
    nobody = RunFuture[int]("01a21c59-0000-7000-8000-000000000000", "double")
    for ask in (lambda: nobody.state, nobody.done, nobody.wait, nobody.result):
        with pytest.raises(RunNotFoundError, match="01a21c59"):
            ask()
    with pytest.raises(ValueError, match="negative"):
        double.delay(1).result(timeout=-1)


def test_arguments_that_cannot_be_run_elsewhere_are_refused(journal: MemoryJournal) -> None:
    """Too many, of no use to another process, or not known yet; no run is made."""

    @flow
    def run() -> None:
        future = double.submit(1)
        with pytest.raises(ParameterError, match="pass its result"):
            double.delay(cast("Any", future))

    with pytest.raises(ParameterError, match="too many"):
        cast("Any", double).delay(1, 2)
    with pytest.raises(ParameterError, match="cannot be stored"):
        double.delay(cast("Any", threading.Lock()))
    for name, value in (("wait_for", ()), ("return_state", True)):
        with pytest.raises(ParameterError, match=f"takes no {name}"):
            cast("Any", double).delay(1, **{name: value})
    assert start(run).error is None
    assert journal.list_runs(RunFilter()) == []


def test_a_delay_inside_of_a_flow_is_a_step() -> None:
    """A replay asks for nothing a second time, even if the process died before it had noted what it asked for."""
    alive: list[bool] = []
    store = memory()

    @task
    def ask(x: int) -> RunFuture[int]:
        return double.delay(x)

    @flow
    def run() -> list[str]:
        futures = [double.delay(1), double.delay(1), double_async.delay(2)]
        if not alive:
            alive.append(True)
            raise Death
        return [future.run_id for future in futures]

    run_id = die_first(run, store)
    asked = {item.id for item in store.list_runs(RunFilter())} - {run_id}
    assert set(resume(run, run_id, store).value) == asked
    assert len(asked) == 3


def test_a_delay_that_was_not_noted_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of the run that it makes depends on where it is asked for: the process may die between the two commits."""
    store = memory()
    whole = store.append

    def dying(*args: Any, **kwargs: Any) -> None:
        raise Death

    @flow
    def run() -> str:
        return double.delay(1).run_id

    monkeypatch.setattr(store, "append", dying)
    with pytest.raises(Death):
        start(run, journal=store)
    monkeypatch.setattr(store, "append", whole)
    first, asked = (item.id for item in reversed(store.list_runs(RunFilter())))
    assert resume(run, first, store).value == asked
    assert len(store.list_runs(RunFilter())) == 2


def test_a_retry_around_a_delay_asks_once() -> None:
    """The second attempt of a task finds the run that the first one has asked for."""
    store = memory()

    @task(retries=1)
    def ask() -> str:
        future = double.delay(1)
        if get_run_context().attempt == 1:
            raise ValueError
        return future.run_id

    @flow
    def run() -> str:
        return ask()

    outcome = start(run, journal=store)
    assert [item.id for item in store.list_runs(RunFilter(flow="task:double"))] == [outcome.value]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_a_flow_reads_of_a_future_is_recorded(colour: str) -> None:
    """Result and state are those of the first life."""
    store, alive = memory(), list[bool]()

    @flow
    def run() -> list[Any]:
        future = double.delay(4)
        found = [future.result(timeout=10), future.state]
        if not alive:
            alive.append(True)
            raise Death
        return found

    @flow
    async def run_async() -> list[Any]:
        future = double.delay(4)
        found = [await future, future.state]
        if not alive:
            alive.append(True)
            raise Death
        return found

    chosen = run if colour == "sync" else run_async
    with serving(store, double):
        run_id = die_first(chosen, store)
        assert resume(chosen, run_id, store).value == [8, StateType.COMPLETED]
    assert [row.name for row in rows(store, "completed")] == ["double.delay", "double.result", "double.state"]


def test_whoever_asked_for_the_flow_has_asked_for_what_it_delays() -> None:
    """A model among them stays among them: a person signs the side effect."""
    store = memory()
    paid: list[int] = []

    @task(side_effect=True)
    def pay(amount: int) -> int:
        paid.append(amount)
        return amount

    @flow
    def run() -> str:
        return pay.delay(5).run_id

    asked = start(run, journal=store, origin=Origin.MODEL).value
    child = store.get_run(asked)
    assert child is not None
    assert child.origins == (Origin.PARENT, Origin.MODEL)
    future = RunFuture[int](asked, "pay").within(store)
    seen = threading.Event()
    undo = store.subscribe(
        lambda: seen.set() if store.list_waits(kinds=frozenset({WaitKind.APPROVAL})) else None
    )
    with serving(store, pay, gate=True):
        assert seen.wait(10)
        assert paid == []
        answer(store, Verdict.APPROVED)
        assert future.result(timeout=10) == 5
    undo()
    assert paid == [5]


def test_a_denied_effect_fails_the_run_in_the_background(journal: MemoryJournal) -> None:
    """The approval of the task holds there as well."""

    @task(side_effect=True, approval="always", not_done_on=NotDone)
    def pay(amount: int) -> int:
        return amount

    future = pay.delay(5)
    seen = threading.Event()
    undo = journal.subscribe(lambda: seen.set() if journal.list_waits() else None)
    with serving(journal, pay, gate=True):
        assert seen.wait(10)
        answer(journal, Verdict.DENIED, reason="too much")
        with pytest.raises(ApprovalDenied, match="too much"):
            future.result(timeout=10)
    undo()


def test_outside_of_a_flow_the_process_says_who_asks(
    journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person; in an agent's shell a model; in a process that runs flows nobody known."""
    double.delay(1)
    assert newest(journal).origins == (Origin.PERSON,)
    monkeypatch.setenv("CLAUDECODE", "1")
    double.delay(1)
    assert newest(journal).origins == (Origin.MODEL,)
    monkeypatch.setenv(WORKER_VARIABLE, "1")
    double.delay(1)
    assert newest(journal).origins == (Origin.UNKNOWN,)


def test_tags_and_names_reach_the_run(journal: MemoryJournal) -> None:
    """Those of the task, and of the block that it is asked for in."""

    @task(tags=["task"])
    def tagged() -> list[str]:
        return sorted(get_run_context().tags)

    with tags("block"):
        future = tagged.delay()
    assert newest(journal).tags == ("block", "task")
    with serving(journal, tagged):
        assert future.result(timeout=10) == ["block", "task"]


def test_at_most_so_many_are_under_way_at_once(journal: MemoryJournal) -> None:
    """The others wait for a place."""
    lock, now, most = threading.Lock(), [0], [0]
    two = threading.Barrier(2)

    @task
    def crowded(x: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        two.wait(10)
        with lock:
            now[0] -= 1
        return x

    futures = [crowded.delay(number) for number in range(6)]
    with serving(journal, crowded, limit=2):
        assert [future.result(timeout=10) for future in futures] == list(range(6))
    assert most == [2]


def test_many_that_wait_for_a_place_are_taken_up_in_their_order(journal: MemoryJournal) -> None:
    """More than a server keeps in mind; one that is cancelled meanwhile is passed over."""
    ran: list[int] = []

    @task
    def note(x: int) -> None:
        ran.append(x)

    futures = [note.delay(number) for number in range(250)]
    journal.request_cancel(futures[7].run_id, "no longer wanted")
    with serving(journal, note, limit=1):
        futures[-1].result(timeout=30)
    assert ran == [number for number in range(250) if number != 7]


def test_flows_are_taken_up_although_no_place_is_left_for_tasks(journal: MemoryJournal) -> None:
    """The limit is one of the runs in the background alone."""
    go = threading.Event()

    @task
    def long() -> None:
        go.wait(10)

    @flow
    def quick() -> int:
        return 1

    futures = [long.delay() for _ in range(3)]
    worker = InlineWorker(journal, {"quick": quick}, tasks=[long], limit=1, options=options())
    with worker:
        run = worker.start_run("quick", {}, origin=Origin.PERSON)
        assert worker.await_run(run.id, 10).state is StateType.COMPLETED
        assert not futures[1].done()
        go.set()
        for future in futures:
            future.result(timeout=10)


def test_a_run_that_waits_for_a_person_leaves_its_place_to_others(journal: MemoryJournal) -> None:
    """However long it might stay in memory where there is room."""

    @task(side_effect=True, approval="always")
    def pay(amount: int) -> int:
        return amount

    asked = pay.delay(5)
    other = double.delay(1)
    using = replace(options(gate=True), suspend_after=3600.0)
    with InlineWorker(journal, {}, tasks=[pay, double], limit=1, options=using):
        assert other.result(timeout=10) == 2
        assert not asked.done()
        answer(journal, Verdict.APPROVED)
        assert asked.result(timeout=10) == 5


def test_a_failed_run_in_the_background_goes_on_where_it_is_served(journal: MemoryJournal) -> None:
    """What failed runs again, the rest is reused; it can be forked, too."""
    ran: list[str] = []

    @task
    def part() -> int:
        ran.append("part")
        return 1

    @task
    def work(x: int) -> int:
        found = part()
        ran.append("work")
        if ran.count("work") == 1:
            raise ValueError
        return found + x

    future = work.delay(1)
    with serving(journal, work) as worker:
        assert isinstance(future.result(timeout=10, raise_on_failure=False), ValueError)
        worker.retry_run(future.run_id, origin=Origin.PERSON)
        assert worker.await_run(future.run_id, 10).state is StateType.COMPLETED
        made, _ = worker.fork_run(future.run_id, "work#1", {"x": 5}, origin=Origin.PERSON)
        assert RunFuture[int](made.id, "work").result(timeout=10) == 6
    assert future.result() == 2


def test_a_run_whose_server_died_is_taken_up_by_the_next_one(journal: MemoryJournal) -> None:
    """What the task has recorded is not done again."""
    done, alive = list[str](), [Death()]

    @task
    def step(name: str) -> str:
        done.append(name)
        return name

    @task
    def work() -> list[str]:
        first = step("first")
        if alive:
            raise alive.pop()
        return [first, step("second")]

    future = work.delay()
    worker = InlineWorker(journal, {}, tasks=[work], options=options())
    made = worker.background["task:work"]
    with pytest.raises(Death):
        resume(made, future.run_id, journal)
    with serving(journal, work):
        assert future.result(timeout=10) == ["first", "second"]
    assert done == ["first", "second"]
    assert last_run(journal) == future.run_id


async def test_serve_runs_on_a_loop_until_it_is_cancelled(journal: MemoryJournal) -> None:
    """Awaited, it serves; cancelled, it stops."""
    server = asyncio.create_task(serve(double, journal=journal, options=options()))
    assert await double.delay(5) == 10
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server


async def test_a_task_can_serve_itself(journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """`task.serve()` is `serve(task)`."""
    monkeypatch.setattr("agentflow.workers.background.open_journal", always(journal))
    server = asyncio.create_task(double_async.serve(limit=1))
    assert await double_async.delay(5) == 10
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server


def test_serve_wants_tasks_and_places_for_them() -> None:
    """Nothing, or something else, is an error at once."""
    for wrong in ((), (5,), (lambda: 1,)):
        given: Any = wrong
        with pytest.raises(DefinitionError, match="serve"):
            serve(*given)
    with pytest.raises(DefinitionError, match=r"flow\.to_deployment"):
        serve(cast("Any", flow(lambda: 1)))
    for limit in (0, -1):
        with pytest.raises(DefinitionError, match="would run nothing"):
            serve(double, limit=limit)
