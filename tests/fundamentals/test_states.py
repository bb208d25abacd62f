"""States: what a call with `return_state=True` gives, and what a task or flow that returns one ends in."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agentflow import INPUTS, NotDone, TaskFuture, flow, quote, task
from agentflow.engine.account import name_of_end
from agentflow.errors import (
    CancelledRun,
    ColourError,
    CrashedRun,
    DefinitionError,
    FailedRun,
    ParameterError,
    PausedRun,
    RunCancelled,
    TaskTimeoutError,
    UnfinishedRun,
)
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import RunFilter
from agentflow.model.states import FINAL, TRANSITIONS
from agentflow.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Scheduled,
    State,
    StateType,
    aggregate,
)
from tests.fundamentals.lives import Death, always, die, memory, options, resume, rows, start, value_of

COLOURS = ["sync", "async"]


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task
def same(value: Any) -> Any:
    return value


@task
def fail(text: str) -> int:
    raise ValueError(text)


def state_of(body: Callable[[], Any], colour: str = "sync") -> State[Any]:
    """The state in which a task with that body ends: in this life, and the same in the next one."""
    journal = memory()
    seen: list[State[Any]] = []

    def look(state: State[Any]) -> None:
        seen.append(state)
        if len(seen) == 1:
            raise Death

    run = watched(body, look, colour)
    run_id = die(run, journal=journal)
    resume(run, run_id, journal)
    first, second = seen
    assert (first.type, first.name, first.message) == (second.type, second.name, second.message)
    assert repr(first.data) == repr(second.data)
    assert first.timestamp == second.timestamp
    assert len(rows(journal, "completed", "failed", name="step")) == 1
    return second


def watched(body: Callable[[], Any], look: Callable[[State[Any]], None], colour: str) -> Any:
    """A flow that shows the state of a task with that body to `look`."""

    @task(name="step")
    def step() -> Any:
        return body()

    @task(name="step")
    async def step_async() -> Any:
        await asyncio.sleep(0)
        return body()

    @flow(name="run")
    def run() -> None:
        state: Any = step(return_state=True)
        look(state)

    @flow(name="run")
    async def run_async() -> None:
        look(await step_async(return_state=True))

    return run if colour == "sync" else run_async


def raiser(error: BaseException) -> Callable[[], Any]:
    """A body that raises."""

    def body() -> Any:
        raise error

    return body


@pytest.mark.parametrize("colour", COLOURS)
def test_a_call_can_give_its_state(colour: str) -> None:
    """`return_state=True`: Completed with the value, or Failed with the exception - nothing is raised."""
    good = state_of(lambda: {"a": 1}, colour)
    assert good.is_completed()
    assert good.is_final()
    assert (good.name, good.message, good.result()) == ("Completed", "", {"a": 1})
    bad = state_of(raiser(ValueError("x")), colour)
    assert bad.is_failed()
    assert (bad.name, bad.message) == ("Failed", "ValueError: x")
    assert repr(bad.result(raise_on_failure=False)) == "ValueError('x')"
    with pytest.raises(ValueError, match="x"):
        bad.result()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("made", "error"),
    [
        pytest.param(lambda: Completed(data=3, message="nothing new", name="Skipped"), None, id="completed"),
        pytest.param(lambda: Completed(message="nothing new"), None, id="completed without data"),
        pytest.param(lambda: Failed(data=ValueError("x"), name="Odd"), "ValueError('x')", id="an exception"),
        pytest.param(lambda: Failed(message="empty file"), "FailedRun('Failed: empty file')", id="a message"),
        pytest.param(lambda: Failed(data="empty file"), "FailedRun('empty file')", id="text"),
        pytest.param(lambda: Failed(data={"rows": 3}), "FailedRun('Failed')", id="a value"),
        pytest.param(lambda: Cancelled(message="no"), "RunCancelled('Cancelled: no')", id="cancelled"),
        pytest.param(lambda: Crashed(message="no"), "CrashedRun('Crashed: no')", id="crashed"),
    ],
)
def test_a_returned_state_is_taken_at_its_word(
    made: Callable[[], State[Any]], error: str | None, colour: str
) -> None:
    """Type, name, message and data, in every life; whoever asks for the value gets it, or the exception."""
    wanted, state = made(), state_of(made, colour)
    assert (state.type, state.name, state.message) == (wanted.type, wanted.name, wanted.message)
    if error is None:
        assert state.result() == wanted.data
        return
    assert repr(state.error) == error
    if wanted.data is not None:
        assert repr(state.data) == repr(wanted.data)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_returned_failure_counts_as_one_and_is_retried(colour: str) -> None:
    """Like a raised one; a returned Cancelled or Crashed is final."""
    calls: list[int] = []

    def twice_bad() -> Any:
        calls.append(1)
        return Failed(message="not yet") if len(calls) < 3 else Completed(data=len(calls))

    def cancelled() -> Any:
        calls.append(1)
        return Cancelled()

    for body, count in ((twice_bad, 3), (cancelled, 1)):
        calls.clear()

        @task(retries=5)
        def step() -> Any:
            return body()  # noqa: B023

        @task(retries=5)
        async def step_async() -> Any:
            return body()  # noqa: B023

        @flow
        def run() -> Any:
            return step()

        @flow
        async def run_async() -> Any:
            return await step_async()

        outcome = start(run if colour == "sync" else run_async)
        assert len(calls) == count
        assert outcome.value == (3 if count == 3 else None)


def test_a_plain_value_after_a_returned_failure_is_just_that() -> None:
    """Nothing of the failed attempt's state is left."""
    calls: list[int] = []

    @task(retries=1)
    def step() -> Any:
        calls.append(1)
        return Failed(name="Odd") if len(calls) == 1 else 5

    @flow
    def run() -> str:
        return repr(step(return_state=True))

    assert value_of(run) == "Completed(type=COMPLETED)"


@pytest.mark.parametrize("returned", [Paused, Running, Pending, Scheduled, Cancelling])
def test_a_state_that_is_no_end_is_refused_as_one(returned: Callable[[], State[Any]]) -> None:
    """Whoever has returned has ended; the error names the ways to wait."""
    state = state_of(returned)
    assert state.is_failed()
    with pytest.raises(UnfinishedRun, match="wait_for_event"):
        state.result()


@pytest.mark.parametrize(
    ("states", "kind", "message"),
    [
        ([Completed(data=1), Completed(data=2)], "COMPLETED", "All states completed."),
        ([Completed(), Failed(), Crashed()], "FAILED", "2/3 states failed."),
        ([Failed(), Paused(), Cancelled()], "CANCELLED", "1/3 states cancelled."),
        ([Failed(), Paused()], "PAUSED", "1/2 states paused."),
        ([Completed(), Pending()], "FAILED", "1/2 states are not final."),
    ],
)
def test_several_states_come_to_one(states: list[State[Any]], kind: str, message: str) -> None:
    """Any cancelled > any paused > any that did not complete > all completed."""
    together = aggregate(states)
    assert (together.type, together.message) == (kind, message)


@pytest.mark.parametrize("kind", [list, tuple, set])
def test_a_returned_collection_of_states_is_their_aggregate(kind: Any) -> None:
    """The first failure is what is raised; of completed ones the values are the value."""

    def some_bad() -> Any:
        return kind([Completed(data=1), Failed(data=ValueError("x")), Failed(data=ValueError("x"), name="B")])

    bad = state_of(some_bad)
    assert (bad.type, bad.message) == (StateType.FAILED, "2/3 states failed.")
    assert [type(state) for state in bad.data] == [State] * 3
    with pytest.raises(ValueError, match="x"):
        bad.result()
    good = state_of(lambda: kind([Completed(data=1), Completed(data=2, name="B")]))
    assert good.message == "All states completed."
    assert sorted(good.result()) == [1, 2]


def test_a_result_looks_into_what_a_state_carries() -> None:
    """A nested state's value; the first failure of several; errors of their own for text and for nothing."""
    assert Completed(data=Completed(data=3)).result() == 3
    assert Completed(data=[Completed(data=1)]).result() == [1]
    with pytest.raises(KeyError):
        Completed(data=[Completed(), Failed(data=KeyError("a")), Failed(data=ValueError())]).result()
    with pytest.raises(KeyError):
        Failed(data=Failed(data=KeyError("a"))).result()
    for made, error in (
        (Failed, FailedRun),
        (Crashed, CrashedRun),
        (Cancelled, CancelledRun),
    ):
        with pytest.raises(error, match="words"):
            made(data="words").result()
        with pytest.raises(error, match="words"):
            made(message="words").result()
        assert isinstance(made(data="words").result(raise_on_failure=False), error)
    for unfinished, error in ((Paused, PausedRun), (Running, UnfinishedRun)):
        with pytest.raises(error):
            unfinished().result(raise_on_failure=False)


def test_states_answer_questions_about_their_type() -> None:
    """One method per type, and whether it is an end."""
    made = {
        "scheduled": Scheduled(), "pending": Pending(), "running": Running(), "paused": Paused(),
        "cancelling": Cancelling(), "completed": Completed(), "failed": Failed(), "cancelled": Cancelled(),
        "crashed": Crashed(),
    }  # fmt: skip
    for name, state in made.items():
        assert [other for other in made if getattr(state, f"is_{other}")()] == [name]
        assert state.is_final() is state.type.is_final
    assert Completed(data=1) == Completed(data=1)
    assert Completed(data=1) != Completed(data=2)
    assert Completed() != 1
    assert len({Completed(), Completed()}) == 1
    assert dt.datetime.now(dt.UTC) - Completed().timestamp < dt.timedelta(minutes=1)


@pytest.mark.parametrize("colour", COLOURS)
def test_states_of_flows_inside_flows(colour: str) -> None:
    """A sub-flow gives its state, and may return one, too."""

    @flow
    def inner(x: int) -> Any:
        return Completed(data=x, name="Fine") if x else Failed(message="zero")

    @flow
    async def inner_async(x: int) -> Any:
        return Completed(data=x, name="Fine") if x else Failed(message="zero")

    @flow
    def run() -> str:
        return repr([inner(1, return_state=True), inner(0, return_state=True), inner(2)])

    @flow
    async def run_async() -> str:
        first, second = await asyncio.gather(
            inner_async(1, return_state=True), inner_async(0, return_state=True)
        )
        return repr([first, second, await inner_async(2)])

    journal = memory()
    outcome = start(run if colour == "sync" else run_async, journal=journal)
    assert outcome.value == "[Fine(type=COMPLETED), Failed(type=FAILED, message='zero'), 2]"


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> MemoryJournal:
    """Where flows that are simply called keep their runs."""
    kept = memory()
    monkeypatch.setattr("agentflow.beginning.open_journal", always(kept))
    return kept


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        pytest.param(lambda: 5, "COMPLETED", "", id="a value"),
        pytest.param(lambda: Completed(data=5, message="fine"), "COMPLETED", "fine", id="completed"),
        pytest.param(lambda: Completed(data=5, name="Enough"), "COMPLETED", "", id="a name of its own"),
        pytest.param(raiser(ValueError("x")), "FAILED", "ValueError: x", id="an exception"),
        pytest.param(lambda: Failed(message="empty"), "FAILED", "empty", id="failed"),
        pytest.param(
            lambda: Failed(message="no", name="Rejected"), "FAILED", "no", id="a failure's own name"
        ),
        pytest.param(lambda: Cancelled(message="stop"), "CANCELLED", "stop", id="cancelled"),
        pytest.param(lambda: Crashed(message="gone"), "CRASHED", "gone", id="crashed"),
        pytest.param(lambda: [Failed(), Completed()], "FAILED", "1/2 states failed.", id="several"),
    ],
)
def test_a_flow_gives_and_takes_states(
    returned: Callable[[], Any], kind: str, message: str, colour: str, journal: MemoryJournal
) -> None:
    """The run ends in the state that its flow returned, name and all; a call with `return_state=True` gives it."""

    @flow
    def run() -> Any:
        return returned()

    @flow
    async def run_async() -> Any:
        return returned()

    state: Any = run(return_state=True) if colour == "sync" else asyncio.run(run_async(return_state=True))
    (recorded_run,) = journal.list_runs(RunFilter())
    assert (state.type, state.message) == (kind, message)
    assert (recorded_run.state, recorded_run.message) == (kind, message)
    assert name_of_end(journal, recorded_run) == (None if state.name == kind.title() else state.name)
    if kind == "COMPLETED":
        assert state.result() == 5


def test_too_few_arguments_raise_even_where_a_state_is_wanted(journal: MemoryJournal) -> None:
    """That is a mistake of the program; no run is made."""

    @flow
    def run(x: int) -> Any:
        missing: Any = add
        with pytest.raises(ParameterError, match="x"):
            missing(return_state=True)
        with pytest.raises(ParameterError, match="z"):
            missing.submit(1, z=1, return_state=True)
        with pytest.raises(ParameterError, match="z"):
            missing.submit(same.submit(1), z=1)
        inside: Any = inner
        with pytest.raises(ParameterError):
            inside(return_state=True)
        return x

    @flow
    def inner(x: int) -> int:
        return x

    wrong: Any = run
    with pytest.raises(ParameterError, match="x"):
        wrong(return_state=True)
    assert journal.list_runs(RunFilter()) == []
    assert run(1) == 1


def test_async_calls_with_too_few_arguments_raise_when_they_are_made(journal: MemoryJournal) -> None:
    """Not only when they are awaited, so nothing that could be awaited is left behind."""

    @task
    async def later(x: int) -> int:
        return x

    @flow
    async def inner(x: int) -> int:
        return x

    @flow
    async def run() -> int:
        for missing in (cast("Any", later), cast("Any", inner)):
            with pytest.raises(ParameterError, match="x"):
                missing()
            with pytest.raises(ParameterError, match="x"):
                missing(return_state=True)
        with pytest.raises(ParameterError, match="x"):
            cast("Any", later).submit()
        return await later(1)

    assert asyncio.run(run()) == 1
    with pytest.raises(ParameterError, match="x"):
        cast("Any", inner)(return_state=True)
    assert len(journal.list_runs(RunFilter())) == 1


@pytest.mark.parametrize("colour", COLOURS)
def test_arguments_of_wrong_types_fail_a_run_whose_state_is_wanted(
    colour: str, journal: MemoryJournal
) -> None:
    """The failed run is there to be seen: it ended as it began, its hooks are told. Else the call raises: no run."""
    ran: list[int] = []
    told: list[str] = []

    def tell(subject: Any, run: Any, state: State[Any]) -> None:
        told.append(state.name)

    hooks: dict[str, Any] = {"on_running": [tell], "on_failure": [tell], "on_completion": [tell]}

    @flow(retries=3, retry_delay_seconds=100, flow_run_name="number {x.real}", **hooks)
    def run(x: int) -> None:
        ran.append(x)

    @flow(retries=3, retry_delay_seconds=100, flow_run_name="number {x.real}", **hooks)
    async def run_async(x: int) -> None:
        ran.append(x)

    called: Any = run if colour == "sync" else run_async
    state = called("one", return_state=True)
    state = asyncio.run(state) if colour == "async" else state
    with pytest.raises(ParameterError, match="one"):
        state.result()
    (kept,) = journal.list_runs(RunFilter())
    assert (kept.state, kept.started) == (StateType.FAILED, kept.ended)
    assert kept.ended is not None
    assert (ran, told) == ([], ["Failed"])  # it has never run
    with pytest.raises(ParameterError):
        called("one")
    assert len(journal.list_runs(RunFilter())) == 1


def test_a_run_whose_arguments_do_not_fit_fails_also_if_its_process_dies_before_it_says_so(
    journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later life reads the same arguments again; nothing of the flow runs with them. A limit is not waited for."""
    ran: list[Any] = []

    @flow(concurrency_limit=1)
    def run(x: int, **others: int) -> None:
        ran.append((x, others))

    def die_of_it(*args: Any, **kwargs: Any) -> None:
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(journal, "set_state", die_of_it)
        patched.setattr(journal, "release_run", always(None))
        with pytest.raises(Death):
            cast("Any", run)("one", y="two", return_state=True)
    (kept,) = journal.list_runs(RunFilter())
    assert (kept.state, kept.started) == (StateType.PENDING, None)
    outcome = run.resume(kept.id, journal=journal, options=options(), take_over=True)
    assert (outcome.state, ran) == (StateType.FAILED, [])
    assert isinstance(outcome.error, ParameterError)
    assert "others.y" in str(outcome.error)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_sub_flow_with_arguments_of_wrong_types_is_a_failed_step(colour: str) -> None:
    """It ends as it begins, its hooks are told, and it is recorded: a later life gives the same state."""
    told: list[str] = []

    def tell(subject: Any, run: Any, state: State[Any]) -> None:
        told.append(state.name)

    @flow(name="inner", flow_run_name="{x.real}", on_failure=[tell], on_running=[tell])
    def inner(x: int) -> int:
        return x

    @flow(name="inner", flow_run_name="{x.real}", on_failure=[tell], on_running=[tell])
    async def inner_async(x: int) -> int:
        return x

    lives: list[str] = []

    def look(state: State[Any]) -> str:
        lives.append(f"{state!r} {state.timestamp}")
        if len(lives) == 1:
            raise Death
        return state.type.value

    @flow
    def run() -> str:
        return look(cast("Any", inner)("one", return_state=True))

    @flow
    async def run_async() -> str:
        return look(await cast("Any", inner_async)("one", return_state=True))

    journal, made = memory(), run if colour == "sync" else run_async
    run_id = die(made, journal=journal)
    assert resume(made, run_id, journal).value == "FAILED"
    assert "ParameterError" in lives[0]
    assert (lives[0], told) == (lives[1], ["Failed"])
    (row,) = rows(journal, name="inner")
    assert (row.event, row.started) == ("failed", row.ended)


def test_a_submitted_task_gives_its_state_when_it_has_ended() -> None:
    """`submit` and `map` with `return_state=True` wait, in a sync flow."""

    @flow
    def run() -> str:
        states = fail.map(["a", "b"], return_state=True)
        return repr([add.submit(1, return_state=True).result(), [state.message for state in states]])

    outcome = start(run)
    assert outcome.value == "[2, ['ValueError: a', 'ValueError: b']]"


def test_on_an_event_loop_states_of_submitted_tasks_are_awaited() -> None:
    """Blocking the loop is refused; the future's `state` says how it ended."""

    @flow
    async def run() -> list[Any]:
        with pytest.raises(ColourError, match="await"):
            add.submit(1, return_state=True)
        future = fail.submit("x")
        with pytest.raises(ValueError, match="x"):
            await future
        return [future.state.message, (await later(1, return_state=True)).result()]

    @task
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert value_of(run) == ["ValueError: x", 1]


def test_a_futures_state_says_how_far_it_has_come() -> None:
    """Pending while it waits for others, running, then its end."""
    began, go = threading.Event(), threading.Event()

    @task
    def slow() -> int:
        began.set()
        go.wait(5)
        return 1

    @flow
    def run() -> list[str]:
        first = slow.submit()
        second: TaskFuture[int] = add.submit(cast("Any", first))
        began.wait(5)
        names = [first.state.name, second.state.name]
        go.set()
        second.wait()
        return [*names, second.state.name]

    assert value_of(run) == ["Running", "Pending", "Completed"]


def test_names_tell_how_an_end_came_about() -> None:
    """`Cached`, `TimedOut` - also for a timeout of the user's own, which is a plain failure."""
    journal = memory()

    @task(cache_policy=INPUTS)
    def cached(x: int) -> int:
        return x

    @task(timeout_seconds=0.001)
    async def slow() -> None:
        await asyncio.Event().wait()

    @task
    def late() -> None:
        raise TimeoutError

    @flow
    async def run() -> list[str]:
        slow_state = await slow(return_state=True)
        assert isinstance(slow_state.error, TaskTimeoutError)
        return [cached(1, return_state=True).name, slow_state.name, late(return_state=True).name]

    assert start(run, journal=journal).value == ["Completed", "TimedOut", "Failed"]
    assert start(run, journal=journal).value == ["Cached", "TimedOut", "Failed"]


@pytest.mark.parametrize("colour", COLOURS)
def test_states_among_the_arguments_become_their_values(colour: str) -> None:
    """Like futures, at any depth; `quote` keeps them as they are."""

    @task
    async def same_async(value: Any) -> Any:
        return repr(value)

    @task
    def name_of(value: Any) -> str:
        return value.name

    @flow
    def run() -> Any:
        state: Any = add(1, return_state=True)
        return [same(state), same([state]), same.submit({"a": state}).result(), name_of(quote(state))]

    @flow
    async def run_async() -> Any:
        state: Any = add(1, return_state=True)
        return [
            await same_async(state),
            await same_async([state]),
            await same_async.submit({"a": state}),
            await same_async(quote(state)),
        ]

    journal = memory()
    if colour == "sync":
        assert start(run, journal=journal).value == [2, [2], {"a": 2}, "Completed"]
    else:
        assert start(run_async, journal=journal).value == [
            "2",
            "[2]",
            "{'a': 2}",
            "Completed(type=COMPLETED)",
        ]


def test_a_failed_state_among_the_arguments_fails_the_call() -> None:
    """With the failure's exception; the task never runs."""
    ran: list[Any] = []

    @task
    def takes(x: Any) -> None:
        ran.append(x)

    @flow
    def run() -> list[str]:
        bad: Any = fail("x", return_state=True)
        found = [takes(bad, return_state=True), takes.submit(bad, return_state=True)]
        with pytest.raises(ValueError, match="x"):
            takes(bad)
        return [f"{state.name} {state.message}" for state in found]

    assert value_of(run) == ["NotReady ValueError: x"] * 2
    assert ran == []


def test_states_and_futures_that_a_flow_returns_become_their_values() -> None:
    """Alone, in lists and in dicts."""

    @flow
    def alone() -> Any:
        return add.submit(1)

    @flow
    def listed() -> Any:
        return [add.submit(1), add(2, return_state=True)]

    @flow
    def keyed() -> Any:
        return {"a": add.submit(1), "b": [add(2, return_state=True)]}

    @flow
    def outer() -> Any:
        return [alone(), listed(), keyed()]

    expected = [2, [2, 3], {"a": 2, "b": [3]}]
    assert [value_of(alone), value_of(listed), value_of(keyed)] == expected
    assert value_of(outer) == expected


def test_failed_futures_that_a_flow_returns_fail_it_together() -> None:
    """Their aggregate is the flow's state; those of a map are several, too."""

    @flow
    def run() -> Any:
        return [add.submit(1), fail.submit("x"), fail.submit("y")]

    @task
    def odd(x: int) -> int:
        if x % 2:
            return x
        raise ValueError(x)

    outcome, mapped = start(run), start(flow(lambda: odd.map([1, 2, 3, 4])))
    assert (outcome.state, mapped.state) == (StateType.FAILED, StateType.FAILED)
    assert (repr(outcome.error), repr(mapped.error)) == ("ValueError('x')", "ValueError(2)")
    assert outcome.as_state().message == "2/3 states failed."
    assert mapped.as_state().message == "2/4 states failed."
    assert value_of(flow(lambda: odd.map([1, 3]))) == [1, 3]


def test_states_survive_the_journal() -> None:
    """One that is part of a value comes back as it was, its exception too."""

    @task
    def keeps() -> Any:
        return Completed(data={"inner": 1})

    @task
    def makes() -> dict[str, Any]:
        return {"state": Failed(data=ValueError("x"), message="m")}

    @flow
    def run() -> list[Any]:
        made = makes()["state"]
        return [keeps(), made.name, made.message, repr(made.data), made.timestamp.tzinfo is not None]

    assert value_of(run) == [{"inner": 1}, "Failed", "m", "ValueError('x')", True]


def test_a_state_that_carries_what_cannot_be_stored_fails_where_it_was_made() -> None:
    """Loudly, like any result."""
    state = state_of(lambda: Failed(data=[threading.Lock()]))
    assert "cannot be pickled" in state.message
    state = state_of(lambda: Completed(data=threading.Lock()))
    assert state.is_failed()
    assert "persist_result=False" in state.message


def test_parameters_may_not_be_called_like_the_keyword_arguments_of_every_call() -> None:
    """The error says to rename it."""

    def waits(wait_for: int) -> int:
        return wait_for

    def returns(*, return_state: bool) -> bool:
        return return_state

    for made in (task, flow):
        for function in (waits, returns):
            with pytest.raises(DefinitionError, match="rename"):
                made(cast("Any", function))


def test_outside_of_a_flow_a_task_gives_its_state_too() -> None:
    """Nothing is recorded there; marks are taken off."""

    @task
    def says() -> Any:
        return Failed(message="no")

    @task
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert add(1, return_state=True).result() == 2
    assert fail("x", return_state=True).message == "ValueError: x"
    said: Any = says(return_state=True)
    assert said.message == "no"
    assert asyncio.run(later(1, return_state=True)).result() == 1
    assert same(quote([1])) == [1]


def test_what_ends_the_process_is_no_state() -> None:
    """KeyboardInterrupt and its like go through, and are never retried."""
    calls: list[int] = []

    @task(retries=3)
    def stopped() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    @flow(retries=3)
    def run() -> None:
        stopped(return_state=True)

    with pytest.raises(KeyboardInterrupt):
        start(run)
    assert calls == [1]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_returned_generator_is_consumed_where_it_was_made(colour: str) -> None:
    """Its items are the result; tasks that it calls are steps of the task that returned it."""

    @task
    def lazy() -> Any:
        return (add(item) for item in range(3))

    @task
    async def lazy_async() -> Any:
        async def items() -> Any:
            for item in range(3):
                yield add(item)

        return items()

    @flow
    def run() -> Any:
        return lazy()

    @flow
    async def run_async() -> Any:
        return await lazy_async()

    journal = memory()
    assert start(run if colour == "sync" else run_async, journal=journal).value == [1, 2, 3]
    assert len(rows(journal, "completed", name="add")) == 3


def test_a_flow_that_returns_a_generator_returns_its_items() -> None:
    """Consumed before the run ends."""

    @flow
    def run() -> Any:
        return (add(item) for item in range(3))

    assert value_of(run) == [1, 2, 3]


def test_a_run_that_was_cancelled_says_so_in_its_state() -> None:
    """The exception of a cancelled run is `RunCancelled`, in Prefect's words `CancelledRun`."""
    assert CancelledRun is RunCancelled
    state = Cancelled(message="by ann")
    with pytest.raises(RunCancelled, match="by ann"):
        state.result()


def test_side_effects_may_return_states() -> None:
    """Completed is done; Failed leaves open whether it happened - unless its exception says that it did not."""

    @task(side_effect=True)
    def act(state: Any) -> Any:
        return {
            "a": Completed(data=1, name="Sent"),
            "b": Failed(message="?"),
            "c": Failed(data=NotDone("no")),
        }[state]

    @flow
    def run() -> list[str]:
        return [repr(act(name, return_state=True)) for name in "abc"]

    journal = memory()
    assert start(run, journal=journal, using=options()).value[0] == "Sent(type=COMPLETED)"
    assert [row.event for row in rows(journal) if row.effect and row.event != "intent"] == [
        "completed", "unknown", "not_done",
    ]  # fmt: skip


def test_the_manual_has_the_table_of_transitions() -> None:
    """docs/states-and-hooks.md says of each state which ones may follow, as the one table of the code does."""
    text = (Path(__file__).parents[2] / "docs" / "states-and-hooks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z]+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    told: dict[str, set[str]] = {}
    for name, following in rows:
        words = set(re.findall(r"`([A-Z]+)`", following))
        ends = {state.value for state in FINAL} if "or an end" in following else set[str]()
        told[name] = {"PENDING"} if following == "the same" else words | ends
    assert told == {state.value: {after.value for after in allowed} for state, allowed in TRANSITIONS.items()}
