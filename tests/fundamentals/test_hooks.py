"""Hooks: who is told of which state, when, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentflow import Flow, flow, get_run_logger, task, wait_for_event
from agentflow.errors import DefinitionError
from agentflow.hooks import FlowRun, TaskRun
from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.run_context import cancel_run
from agentflow.states import Cancelled, Completed, Crashed, State
from tests.fundamentals.lives import Death, die, last_run, log_of, memory, options, resume, rows, start

COLOURS = ["sync", "async"]


class Told:
    """Hooks that keep what they were told."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.runs: list[Any] = []

    def __call__(self, subject: Any, run: Any, state: State[Any]) -> None:
        self.runs.append(run)
        self.states.append(f"{subject.name} {state.name}")

    async def later(self, subject: Any, run: Any, state: State[Any]) -> None:
        await asyncio.sleep(0)
        self(subject, run, state)


def every(told: Told, *, asynchronous: bool = False) -> dict[str, Any]:
    hook = told.later if asynchronous else told
    return {"on_completion": [hook], "on_failure": [hook], "on_running": [hook]}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("colour", COLOURS)
def test_hooks_of_tasks_sub_flows_and_runs_are_told_of_their_states(colour: str, asynchronous: bool) -> None:
    """Sync or async ones; before each attempt, and of the end once the retries are used up."""
    told = Told()
    hooks = every(told, asynchronous=asynchronous)

    @task(name="good", **hooks)
    def good() -> int:
        return 1

    @task(name="bad", retries=1, **hooks)
    def bad() -> int:
        raise ValueError

    @flow(name="inner", **hooks)
    def inner() -> int:
        return good()

    @flow(name="outer", **hooks)
    def outer() -> None:
        inner()
        bad()

    @task(name="good", **hooks)
    async def good_async() -> int:
        return 1

    @task(name="bad", retries=1, **hooks)
    async def bad_async() -> int:
        raise ValueError

    @flow(name="inner", **hooks)
    async def inner_async() -> int:
        return await good_async()

    @flow(name="outer", **hooks)
    async def outer_async() -> None:
        await inner_async()
        await bad_async()

    start(outer if colour == "sync" else outer_async)
    assert told.states == [
        "outer Running", "inner Running", "good Running", "good Completed", "inner Completed",
        "bad Running", "bad Retrying", "bad Failed", "outer Failed",
    ]  # fmt: skip


@pytest.mark.parametrize("delay", [0, 5])
@pytest.mark.parametrize("colour", COLOURS)
def test_each_retry_is_told_and_a_failure_only_once(colour: str, delay: float) -> None:
    """However long it waits before; `on_failure` when the last attempt has failed."""
    told = Told()
    policy: dict[str, Any] = {"retries": 2, "retry_delay_seconds": delay, **every(told)}

    @task(name="bad", **policy)
    def bad() -> int:
        raise ValueError

    @task(name="bad", **policy)
    async def bad_async() -> int:
        raise ValueError

    @flow
    def run() -> None:
        bad()

    @flow
    async def run_async() -> None:
        await bad_async()

    start(run if colour == "sync" else run_async)
    assert told.states == ["bad Running", "bad Retrying", "bad Retrying", "bad Failed"]


def test_hooks_are_given_what_ran() -> None:
    """Ids, names, arguments, which attempt it was, tags."""
    told = Told()

    @task(name="step", task_run_name="step of {x}", tags=["a"], retries=1, on_completion=[told])
    def step(x: int) -> int:
        tries.append(x)
        if len(tries) == 1:
            raise ValueError
        return x

    @flow(name="run", on_completion=[told])
    def run(x: int) -> int:
        return step(x + 1)

    tries: list[int] = []
    outcome = start(run, 1)
    task_run, flow_run = told.runs
    assert isinstance(task_run, TaskRun)
    assert isinstance(flow_run, FlowRun)
    assert (task_run.name, task_run.task_name, dict(task_run.parameters)) == ("step of 2", "step", {"x": 2})
    assert (task_run.run_count, task_run.tags, task_run.flow_run_id) == (2, ("a",), outcome.run_id)
    assert (flow_run.id, flow_run.flow_name, dict(flow_run.parameters)) == (outcome.run_id, "run", {"x": 1})
    assert flow_run.run_count == 1


@pytest.mark.parametrize("colour", COLOURS)
def test_hooks_of_an_end_run_at_most_once(colour: str) -> None:
    """In the life that recorded the end, after that; never on replay."""
    told = Told()
    lives: list[int] = []
    journal = memory()

    def recorded_first(subject: Any, run: Any, state: State[Any]) -> None:
        assert rows(journal, "completed", name="step")
        told(subject, run, state)

    @task(name="step", on_completion=[recorded_first])
    def step() -> int:
        return 1

    @task(name="step", on_completion=[recorded_first])
    async def step_async() -> int:
        return 1

    @flow(name="run", on_running=[told])
    def run() -> int:
        step()
        return last()

    @flow(name="run", on_running=[told])
    async def run_async() -> int:
        await step_async()
        return last()

    def last() -> int:
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return 2

    which: Any = run if colour == "sync" else run_async
    run_id = die(which, journal=journal)
    assert resume(which, run_id, journal).value == 2
    assert told.states == ["run Running", "step Completed", "run Running"]


def test_a_raising_hook_changes_nothing() -> None:
    """It is logged; later hooks run, and the state stays."""
    told = Told()

    def broken(subject: Any, run: Any, state: State[Any]) -> None:
        message = "no network"
        raise ConnectionError(message)

    @task(on_completion=[broken, told])
    def step() -> int:
        return 1

    @flow(on_completion=[broken, told])
    def run() -> int:
        return step()

    journal = memory()
    outcome = start(run, journal=journal)
    assert outcome.value == 1
    assert len(told.states) == 2
    assert sum("no network" in line for line in log_of(journal)) == 2


def test_hooks_are_declared_with_decorators_too() -> None:
    """They come after those among the options, and stay with `with_options`."""
    told = Told()

    @task(name="step", on_failure=told)
    def step() -> int:
        raise ValueError

    @step.on_failure
    def second(subject: Any, run: Any, state: State[Any]) -> None:
        told.states.append("second")

    @flow
    def run() -> None:
        step(return_state=True)
        step.with_options(name="other")(return_state=True)

    @run.on_completion
    async def third(subject: Any, run: Any, state: State[Any]) -> None:
        told.states.append("third")

    assert callable(second)
    assert callable(third)
    start(run)
    assert told.states == ["step Failed", "second", "other Failed", "second", "third"]


@pytest.mark.parametrize("wrong", [5, ["text"], [None]])
def test_what_cannot_be_called_is_refused_at_definition(wrong: Any) -> None:
    """For tasks and flows alike, as options and as decorators; it is a TypeError, too."""
    for made in (task, flow):
        with pytest.raises(DefinitionError, match="on_failure") as refused:
            made(on_failure=wrong)(lambda: 1)
        assert isinstance(refused.value, TypeError)
    for declared in (task(lambda: 1), flow(lambda: 1)):
        with pytest.raises(TypeError, match="on_completion"):
            declared.on_completion(wrong)


@pytest.mark.parametrize(
    ("returned", "name"),
    [(Cancelled(), "on_cancellation"), (Crashed(), "on_crashed"), (Completed(), "on_completion")],
)
def test_flows_have_hooks_for_how_they_stop(returned: State[Any], name: str) -> None:
    """One kind of hook for each end."""
    told = {kind: Told() for kind in ("on_completion", "on_failure", "on_cancellation", "on_crashed")}
    options: dict[str, Any] = dict(told)

    @flow(**options)
    def run() -> Any:
        return returned

    start(run)
    assert [kind for kind, hook in told.items() if hook.states] == [name]


TOLD = Told()
CALLS: list[str] = []


@flow(name="rented", on_cancellation=TOLD)
def rented() -> Any:
    """A flow that other processes can find."""
    CALLS.append("body")
    return wait_for_event("enough").result()


@flow(name="rented", on_cancellation=[TOLD.later])
async def rented_async() -> Any:
    """The same, async."""
    CALLS.append("body")
    return await wait_for_event("enough")


@pytest.fixture
def nobody_told() -> None:
    """Nothing was told so far."""
    CALLS.clear()
    TOLD.states.clear()
    TOLD.runs.clear()


@pytest.mark.usefixtures("nobody_told")
@pytest.mark.parametrize("which", [rented, rented_async])
def test_hooks_of_a_run_that_nobody_runs_are_told_by_whoever_takes_it_up(which: Flow[..., Any]) -> None:
    """It stays CANCELLING until then, and is due; nothing else of it is run, and they are told once."""
    journal = memory()
    run_id = start(which, journal=journal).run_id
    assert cancel_run(run_id, actor="ann", journal=journal).state is StateType.CANCELLING
    assert [run.id for run in journal.due_runs(0.0)] == [run_id]
    assert TOLD.states == []
    outcome = resume(which, run_id, journal)
    assert (outcome.state, str(outcome.error)) == (StateType.CANCELLED, "cancelled by ann")
    assert (TOLD.states, CALLS) == (["rented Cancelled"], ["body"])
    assert (TOLD.runs[0].id, journal.due_runs(0.0)) == (run_id, [])


@pytest.mark.usefixtures("nobody_told")
def test_hooks_of_a_run_that_never_began_are_not_told() -> None:
    """There is nothing that they could clear up: it is CANCELLED at once."""
    journal = memory()
    new = rented.new_run({}, journal, options(), Origin.PERSON)
    pending = journal.create_run(new, state=StateType.PENDING)
    assert cancel_run(pending.id, actor="ann", journal=journal).state is StateType.CANCELLED
    assert TOLD.states == []


class AskedToStopAsItLeaves(MemoryJournal):
    """Somebody cancels the run at the moment at which it leaves memory."""

    def set_state(self, number: int, epoch: int, state: StateType, **more: Any) -> None:
        if state is StateType.PAUSED and more.get("release"):
            cancel_run(last_run(self), actor="ann", journal=self)
        super().set_state(number, epoch, state, **more)


@pytest.mark.usefixtures("nobody_told")
@pytest.mark.parametrize("which", [rented, rented_async])
def test_hooks_of_a_run_that_is_cancelled_as_it_leaves_memory_are_told_there(which: Flow[..., Any]) -> None:
    """Its process still has it, so the run ends there."""
    journal = AskedToStopAsItLeaves(b"k" * 32)
    assert start(which, journal=journal).state is StateType.CANCELLED
    assert TOLD.states == ["rented Cancelled"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancelled_run_whose_process_is_interrupted_has_its_hooks_told(asynchronous: bool) -> None:
    """It ends as CANCELLED, and not as one that is to be resumed; the interrupt goes on to the program."""
    journal, told = memory(), Told()

    def interrupted() -> None:
        cancel_run(last_run(journal), actor="ann", journal=journal)
        raise KeyboardInterrupt

    @flow(name="run", on_cancellation=told)
    def run() -> None:
        interrupted()

    @flow(name="run", on_cancellation=told.later)
    async def run_async() -> None:
        interrupted()

    with pytest.raises(KeyboardInterrupt):
        start(run_async if asynchronous else run, journal=journal)
    stored = journal.get_run(last_run(journal))
    assert stored is not None
    assert (stored.state, stored.message) == (StateType.CANCELLED, "cancelled by ann")
    assert told.states == ["run Cancelled"]


def test_hooks_are_outside_of_the_run() -> None:
    """Tasks are plain functions there, nothing is recorded; the run's logger is at hand."""

    @task(name="notify")
    def notify() -> str:
        return "sent"

    def hook(subject: Any, run: Any, state: State[Any]) -> None:
        get_run_logger().info("hook %s", notify())

    @task(name="step", on_completion=[hook])
    def step() -> int:
        return 1

    @flow
    def run() -> int:
        return step()

    journal = memory()
    start(run, journal=journal)
    assert "hook sent" in log_of(journal)
    assert rows(journal, name="notify") == []


def test_side_effects_have_hooks() -> None:
    """Before the intent, and after the end."""
    told = Told()

    @task(name="pay", side_effect=True, **every(told))
    def pay() -> int:
        return 1

    @flow
    def run() -> int:
        return pay()

    start(run)
    assert told.states == ["pay Running", "pay Completed"]


@pytest.mark.parametrize("again", [True, False])
def test_a_condition_may_take_what_prefects_takes(again: bool) -> None:
    """(task, task run, state), sync or async; told apart by how many it takes."""
    seen: list[str] = []

    def condition(subject: Any, run: TaskRun, state: State[Any]) -> bool:
        seen.append(f"{subject.name} {run.run_count} {state.message}")
        return again

    @task(name="step", retries=1, retry_condition_fn=condition)
    def step() -> int:
        message = "x"
        raise ValueError(message)

    @flow
    def run() -> None:
        step()

    journal = memory()
    start(run, journal=journal)
    assert seen == ["step 1 ValueError: x"]
    assert len(rows(journal, "attempt")) == (1 if again else 0)
    with pytest.raises(DefinitionError, match="retry_condition_fn"):
        task(retries=1, retry_condition_fn=neither)(lambda: 1)


def neither(_first: Any, _second: Any) -> bool:
    """A condition that takes what no condition is given."""
    return True
