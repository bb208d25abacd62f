"""What a call waits for: `wait_for`, futures inside of values, and the marks `allow_failure`, `quote`, `opaque`."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from agentflow import State, allow_failure, flow, opaque, quote, sleep, task, unmapped
from agentflow.errors import ColourError, ParameterError, UpstreamFailed
from agentflow.futures import RunFuture
from agentflow.journal.protocol import RunFilter
from agentflow.states import Completed, Failed, Pending, StateType
from tests.fundamentals.lives import (
    Death,
    always,
    die,
    log_of,
    memory,
    options,
    resume,
    rows,
    start,
    value_of,
)

COLOURS = ["sync", "async"]


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task
def same(value: Any) -> Any:
    return value


@task
def shown(value: Any) -> str:
    return repr(value)


@task
async def shown_later(value: Any) -> str:
    await asyncio.sleep(0)
    return repr(value)


@task
def fail(text: str) -> int:
    raise ValueError(text)


class Model(BaseModel):
    content: Any
    other: int = 0


@dataclass(frozen=True)
class Box:
    content: Any


class Names(list[Any]):
    """A list of the user's own."""


@pytest.mark.parametrize("colour", COLOURS)
def test_a_call_starts_after_what_it_waits_for(colour: str) -> None:
    """Called, submitted, mapped, or a sub-flow: only when all of `wait_for` has ended."""
    log: list[str] = []
    go = threading.Event()

    @task
    def first() -> None:
        go.wait(5)
        log.append("first")

    @task
    def second(name: str) -> None:
        log.append(name)

    @task
    async def second_async(name: str) -> None:
        log.append(name)

    @flow
    def inner(name: str) -> None:
        log.append(name)

    @flow
    async def inner_async(name: str) -> None:
        log.append(name)

    @flow
    def run() -> None:
        before = first.submit()
        submitted = second.submit("submitted", wait_for=[before])
        mapped = second.map(["mapped"], wait_for={"a": [before]})
        go.set()
        second("called", wait_for=[submitted, mapped])
        inner("flow", wait_for=before)

    @flow
    async def run_async() -> None:
        before = first.submit()
        submitted = second_async.submit("submitted", wait_for=[before])
        mapped = second_async.map(["mapped"], wait_for={"a": [before]})
        go.set()
        await second_async("called", wait_for=[submitted, mapped])
        await inner_async("flow", wait_for=before)

    outcome = start(run if colour == "sync" else run_async)
    assert outcome.error is None
    assert log[0] == "first"
    assert sorted(log[1:3]) == ["mapped", "submitted"]
    assert log[3:] == ["called", "flow"]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_call_is_not_made_where_what_it_waits_for_failed(colour: str) -> None:
    """It stays PENDING, NotReady, raising `UpstreamFailed` from the failure; `allow_failure` has it made anyway."""
    ran: list[str] = []

    @task
    def after(name: str) -> str:
        ran.append(name)
        return name

    @task
    async def after_async(name: str) -> str:
        ran.append(name)
        return name

    @flow
    def inner() -> None:
        ran.append("flow")

    @flow
    async def inner_async() -> None:
        ran.append("flow")

    @flow
    def run() -> list[str]:
        bad = fail.submit("x")
        states = [
            after("a", wait_for=[bad], return_state=True),
            after.submit("b", wait_for=[bad], return_state=True),
            *after.map(["c"], wait_for=[bad], return_state=True),
            inner(wait_for=[bad], return_state=True),
            after("d", wait_for=[allow_failure(bad)], return_state=True),
        ]
        with pytest.raises(UpstreamFailed, match="allow_failure") as caught:
            after("e", wait_for=[bad])
        assert repr(caught.value.__cause__) == "ValueError('x')"
        return [f"{state.type} {state.name}" for state in states]

    @flow
    async def run_async() -> list[str]:
        bad = fail.submit("x")
        submitted = after_async.submit("b", wait_for=[bad])
        (mapped,) = after_async.map(["c"], wait_for=[bad])
        states: list[State[Any]] = [
            await after_async("a", wait_for=[bad], return_state=True),
            await inner_async(wait_for=[bad], return_state=True),
            await after_async("d", wait_for=allow_failure([bad]), return_state=True),
        ]
        for future in (submitted, mapped):
            with pytest.raises(UpstreamFailed):
                await future
        with pytest.raises(UpstreamFailed, match="allow_failure"):
            await after_async("e", wait_for=[bad])
        all_states = [states[0], submitted.state, mapped.state, *states[1:]]
        return [f"{state.type} {state.name}" for state in all_states]

    journal = memory()
    outcome = start(run if colour == "sync" else run_async, journal=journal)
    assert outcome.value == ["PENDING NotReady"] * 4 + ["COMPLETED Completed"]
    assert ran == ["d"]
    assert any("was not run: fail did not complete" in line for line in log_of(journal))


def test_a_flow_with_a_call_that_was_not_made_fails() -> None:
    """A failure that is only passed on is not lost: whoever looks at the end of the chain sees it."""

    @flow
    def run() -> None:
        add.submit(1, wait_for=[fail.submit("x")])

    assert repr(start(run).error) == repr(UpstreamFailed("add", "fail"))


@pytest.mark.parametrize("returned", ["state", "states", "future", "futures", "sub-flow", "argument"])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_flow_that_returns_the_state_of_a_call_that_was_not_made_fails(colour: str, returned: str) -> None:
    """It has ended, while that state is no end; the reason is what it raises."""
    outcome = start(_returns(returned, colour))
    assert outcome.final is not None
    assert (outcome.state, outcome.final.message) == (StateType.FAILED, "1/1 states are not final.")
    assert type(outcome.error).__name__ == ("ValueError" if returned == "argument" else "UpstreamFailed")


def _returns(what: str, colour: str) -> Any:
    """A flow that returns what becomes of a call whose upstream fails."""

    def submitted() -> Any:
        return add.submit(1, wait_for=[fail.submit("x")])

    @task
    async def add_later(x: int) -> int:
        return x

    @flow
    async def inner() -> Any:
        return submitted()

    asked: dict[str, Callable[[], Any]] = {
        "state": lambda: add(1, wait_for=[fail.submit("x")], return_state=True),
        "states": lambda: [add(1, wait_for=[fail.submit("x")], return_state=True)],
        "argument": lambda: add(fail.submit("x"), return_state=True),
        "sub-flow": lambda: flow(submitted)(return_state=True),
    }
    asked_async: dict[str, Callable[[], Any]] = {
        "state": lambda: add_later(1, wait_for=[fail.submit("x")], return_state=True),
        "argument": lambda: add_later(fail.submit("x"), return_state=True),
        "sub-flow": lambda: inner(return_state=True),
    }

    @flow
    def run() -> Any:
        future = submitted() if what.startswith("future") else None
        return asked[what]() if future is None else [future] if what == "futures" else future

    @flow
    async def run_async() -> Any:
        if what.startswith("future"):
            return [submitted()] if what == "futures" else submitted()
        state = await asked_async[what.removesuffix("s") if what == "states" else what]()
        return [state] if what == "states" else state

    return run if colour == "sync" else run_async


@pytest.mark.parametrize("colour", COLOURS)
def test_the_state_of_a_call_that_was_not_made_is_recorded_where_it_is_the_end_of_a_step(colour: str) -> None:
    """A task or sub-flow that returns it has failed; a later life is told the same, and the next attempt asks anew."""
    lives: list[str] = []
    tries: list[int] = []

    @task(name="unsteady")
    def unsteady() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        return len(tries)

    @flow(name="inner")
    def inner() -> Any:
        return add(1, wait_for=[unsteady.submit()], return_state=True)

    @flow(name="inner")
    async def inner_async() -> Any:
        return add.submit(1, wait_for=[unsteady.submit()])

    def look(state: State[Any]) -> State[Any]:
        lives.append(f"{state!r} {state.data!r}")
        if len(lives) == 1:
            raise Death
        return state

    @flow(retries=1)
    def run() -> Any:
        state: Any = inner(return_state=True)
        return look(state)

    @flow(retries=1)
    async def run_async() -> Any:
        return look(await inner_async(return_state=True))

    journal, made = memory(), run if colour == "sync" else run_async
    run_id = die(made, journal=journal)
    outcome = resume(made, run_id, journal)
    assert (outcome.error, outcome.value) == (None, 2)
    assert lives[0] == lives[1]
    assert "1/1 states are not final." in lives[0]
    assert "NotReady" in lives[0]
    assert (len(lives), len(tries)) == (3, 2)


@pytest.mark.parametrize("colour", COLOURS)
def test_whether_a_call_is_made_is_known_again_on_replay(colour: str) -> None:
    """Nothing is recorded of a call that was not made; a later life comes to the same without it."""
    ran: list[str] = []

    @task
    def after(name: str) -> str:
        ran.append(name)
        return name

    @task
    async def after_async(name: str) -> str:
        ran.append(name)
        return name

    @task
    def deadly() -> None:
        if len(lives) == 1:
            raise Death

    lives: list[int] = []

    @flow
    def run() -> list[str]:
        lives.append(1)
        bad = fail.submit("x")
        good = after.submit("good", wait_for=[allow_failure(bad)])
        names = [after("no", wait_for=[bad, good], return_state=True).name]
        deadly()
        return [*names, after("late", wait_for=[good])]

    @flow
    async def run_async() -> list[str]:
        lives.append(1)
        bad = fail.submit("x")
        good = after_async.submit("good", wait_for=[allow_failure(bad)])
        names = [(await after_async("no", wait_for=[bad, good], return_state=True)).name]
        deadly()
        return [*names, await after_async("late", wait_for=[good])]

    journal = memory()
    made = run if colour == "sync" else run_async
    run_id = die(made, journal=journal)
    assert resume(made, run_id, journal).value == ["NotReady", "late"]
    assert ran == ["good", "late"]
    names = [
        row.name.rpartition(".")[2].removesuffix("_async") for row in rows(journal, "completed", "failed")
    ]
    assert sorted(names) == ["after", "after", "deadly", "fail"]


def test_a_retried_flow_makes_the_call_that_could_not_be_made_before() -> None:
    """Once what it waits for has completed."""
    tries: list[int] = []

    @task
    def unsteady() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        return len(tries)

    @flow(retries=1)
    def run() -> int:
        return add.submit(1, wait_for=[unsteady.submit()]).result()

    assert value_of(run) == 2
    assert len(tries) == 2


def test_states_can_be_waited_for() -> None:
    """They have ended already; one that did not complete keeps the call from being made."""

    @flow
    def run() -> list[str]:
        return [
            add(1, wait_for=[state], return_state=True).name
            for state in (Completed(), Failed(), Pending(), allow_failure(Failed()), "anything")
        ]

    assert value_of(run) == ["Completed", "NotReady", "NotReady", "Completed", "Completed"]


def test_a_flow_can_wait_for_states_before_it_becomes_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one did not complete, there is no run."""
    journal = memory()
    monkeypatch.setattr("agentflow.beginning.open_journal", always(journal))

    @flow
    def run() -> int:
        return 1

    assert run(wait_for=[Completed()]) == 1
    assert run(wait_for=[Failed()], return_state=True).name == "NotReady"
    with pytest.raises(UpstreamFailed):
        run(wait_for=[Failed()])
    assert len(journal.list_runs(RunFilter())) == 1


def test_a_list_that_grows_after_the_call_changes_nothing() -> None:
    """A call waits for what was in the list when it was made, so it never waits for itself."""

    @flow
    def run() -> list[int]:
        queue: list[Any] = []
        for number in range(3):
            queue.append(add.submit(number, wait_for=queue))
        total = same.submit(queue)
        queue.append(total)
        return total.result()

    assert value_of(run) == [1, 2, 3]


def test_what_a_call_cannot_wait_for_is_refused() -> None:
    """A coroutine, a durable wait, a run in the background: it says so, and does not just begin."""
    ran: list[int] = []

    @task
    def after() -> None:
        ran.append(1)

    async def nothing() -> None:
        """Nothing."""

    background = RunFuture[int]("01a21c59-0000-7000-8000-000000000000", "background")

    @flow
    async def run() -> list[str]:
        coroutine, pause, found = nothing(), sleep(0), list[str]()
        for wrong in (coroutine, pause, background):
            for wait_for in ([wrong], {"a": [allow_failure(wrong)]}, wrong):
                with pytest.raises(ParameterError, match="await that first") as caught:
                    after(wait_for=wait_for)
                found.append(str(caught.value))
                with pytest.raises(ParameterError, match="await that first"):
                    after.submit(wait_for=wait_for)
        await coroutine
        await pause
        return found

    assert "not a coroutine" in value_of(run)[0]
    assert ran == []


@pytest.mark.parametrize("how", ["result", "wait", "await"])
def test_a_task_that_waits_for_itself_is_told_of_the_deadlock(how: str) -> None:
    """Its own future in its own hands would block it for ever."""
    box: list[Any] = []
    handed = threading.Event()

    @task
    def selfish() -> Any:
        handed.wait(5)
        return box[0].result() if how == "result" else box[0].wait()

    @task
    async def selfish_async() -> Any:
        handed.wait(5)
        return await box[0]

    @flow
    def run() -> str:
        made = selfish if how != "await" else selfish_async
        box.append(made.submit())
        handed.set()
        return str(box[0].exception())

    assert "deadlock" in value_of(run)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_direct_call_takes_futures_too(colour: str) -> None:
    """They are waited for; a sync task does not block an event loop for them."""

    @flow
    def run() -> Any:
        future: Any = add.submit(1)
        return [same(future), same({"a": [future]}), same(value=future)]

    @flow
    async def run_async() -> Any:
        future: Any = add.submit(1)
        one, two = await asyncio.gather(shown_later(future), shown_later([future]))
        go = threading.Event()

        @task
        def slow() -> int:
            go.wait(5)
            return 2

        waiting: Any = slow.submit()
        with pytest.raises(ColourError, match="await"):
            same(waiting)
        go.set()
        await waiting
        return [int(one), {"a": [int(two[1])]}, same(waiting)]

    journal = memory()
    assert start(run if colour == "sync" else run_async, journal=journal).value == [2, {"a": [2]}, 2]


def test_the_futures_of_a_map_arrive_as_a_plain_list() -> None:
    """What can wait for them has nothing to wait for any more."""

    @task
    def kind(value: Any) -> str:
        return type(value).__name__

    @flow
    def run() -> list[str]:
        futures = add.map([1, 2])
        return [kind(futures), kind.submit(futures).result(), shown({"a": futures})]

    assert value_of(run) == ["list", "list", "{'a': [2, 3]}"]


def test_futures_inside_of_every_kind_of_value_are_found() -> None:
    """Models, frozen dataclasses, subclasses of list and dict, at any depth; the values given stay as they are."""

    @flow
    def run() -> list[str]:
        future: Any = add.submit(1)
        model = Model(content={"a": [future]})
        found = [
            shown(model),
            shown(Box(future)),
            shown([Names([future]), (future,), {1: OrderedDict(a=future)}]),
            shown(defaultdict(list, {"a": future})),
            shown.submit(frozenset({future})).result(),
        ]
        assert model.content["a"][0] is future
        return found

    assert value_of(run) == [
        "Model(content={'a': [2]}, other=0)",
        "Box(content=2)",
        f"[[2], (2,), {{1: {OrderedDict(a=2)!r}}}]",
        "defaultdict(<class 'list'>, {'a': 2})",
        "frozenset({2})",
    ]


@pytest.mark.parametrize("mark", [quote, opaque])
def test_what_is_quoted_is_passed_as_it_is(mark: Any) -> None:
    """Futures inside are not waited for, and arrive as futures."""
    go = threading.Event()

    @task
    def slow() -> int:
        go.wait(5)
        return 1

    @task
    def kind_of(value: list[Any], name: str) -> str:
        return f"{name} {type(value[0]).__name__}"

    @flow
    def run() -> list[str]:
        future = slow.submit()
        found = [
            kind_of(mark([future]), "called"),
            kind_of.submit(mark([future]), "submitted").result(),
            kind_of.map(unmapped(mark([future])), ["mapped"])[0].result(),
        ]
        go.set()
        return found

    assert value_of(run) == [f"{how} TaskFuture" for how in ("called", "submitted", "mapped")]


@pytest.mark.parametrize("colour", COLOURS)
def test_failures_may_be_let_through(colour: str) -> None:
    """`allow_failure` passes the exception as the value: alone, in collections, over collections, in maps of maps."""

    @flow
    def run() -> list[str]:
        bad, good = fail.submit("x"), add.submit(1)
        mapped = shown.map(allow_failure([bad, good]))
        chained = shown.map([allow_failure(future) for future in fail.map(["a", "b"])])
        return [
            shown(allow_failure(bad)),
            shown.submit({"a": [allow_failure(bad)]}).result(),
            shown(allow_failure([bad, good])),
            shown(allow_failure(fail("s", return_state=True))),
            *(future.result() for future in (*mapped, *chained)),
        ]

    @flow
    async def run_async() -> list[str]:
        bad, good = fail.submit("x"), add.submit(1)
        mapped = shown_later.map(allow_failure([bad, good]))
        chained = shown_later.map([allow_failure(future) for future in fail.map(["a", "b"])])
        return [
            await shown_later(allow_failure(bad)),
            await shown_later.submit({"a": [allow_failure(bad)]}),
            await shown_later(allow_failure([bad, good])),
            await shown_later(allow_failure(fail("s", return_state=True))),
            *[await future for future in (*mapped, *chained)],
        ]

    x = "ValueError('x')"
    assert value_of(run if colour == "sync" else run_async) == [
        x, f"{{'a': [{x}]}}", f"[{x}, 2]", "ValueError('s')", x, "2", "ValueError('a')", "ValueError('b')",
    ]  # fmt: skip


def test_to_let_a_failure_through_is_to_look_at_it() -> None:
    """It fails the flow no more; nor does one whose state was read."""

    @flow
    def run() -> int:
        shown(allow_failure(fail.submit("x")))
        looked = fail.submit("y")
        looked.wait()
        assert looked.state.is_failed()
        add(1, wait_for=[allow_failure(fail.submit("z"))])
        return 1

    assert value_of(run) == 1


def test_exceptions_as_arguments_tell_calls_apart() -> None:
    """Equal ones are equal inputs, in this life and in the next."""
    ran: list[str] = []
    lives: list[int] = []

    @task
    def handle(error: Any) -> str:
        ran.append(str(error))
        return str(error)

    @flow
    def run() -> list[str]:
        lives.append(1)
        names = ["a", "b"] if len(lives) == 1 else ["b", "a"]
        found = [handle(allow_failure(fail(name, return_state=True))) for name in names]
        if len(lives) == 1:
            raise Death
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == ["b", "a"]
    assert ran == ["a", "b"]


def test_values_that_contain_themselves_are_not_taken_apart_for_ever() -> None:
    """A future beside the loop is still found."""

    @flow
    def run() -> Any:
        looped: list[Any] = [add.submit(1)]
        looped.append(looped)
        return first(looped)

    @task
    def first(items: list[Any]) -> int:
        return items[0]

    assert value_of(run) == 2


def test_async_calls_with_futures_keep_their_place_on_replay() -> None:
    """Gathered calls whose arguments come later are found again, whichever was ready first."""
    ran: list[str] = []
    lives: list[int] = []

    @task
    async def slow(x: int) -> int:
        for _ in range(x if len(lives) == 1 else 3 - x):
            await asyncio.sleep(0)
        return x

    @task
    async def use(x: Any) -> str:
        ran.append(str(x))
        return f"used {x}"

    @flow
    async def run() -> list[str]:
        lives.append(1)
        futures: list[Any] = slow.map([3, 0, 2])
        found = await asyncio.gather(*(use(future) for future in futures))
        if len(lives) == 1:
            raise Death
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal, options()).value == ["used 3", "used 0", "used 2"]
    assert sorted(ran) == ["0", "2", "3"]
