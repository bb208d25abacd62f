"""Flows and tasks are functions: how they are called, in every colour, and what they give back."""

from __future__ import annotations

import asyncio
import inspect
import threading
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytest
from pydantic import BaseModel, ConfigDict

from agentflow import Flow, Task, flow, get_run_context, get_run_logger, task, wait_for_event
from agentflow.errors import (
    ColourError,
    DefinitionError,
    MissingContextError,
    NotAwaitedError,
    ParameterError,
)
from agentflow.journal.protocol import RunFilter
from agentflow.model.states import StateType
from tests.fundamentals.lives import memory, options, rows, start, value_of


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x * 10


def test_a_flow_of_tasks_returns_its_value_and_records_each_call() -> None:
    """A sync flow calls sync tasks like functions; each call is one row of its run."""

    @flow
    def total(n: int) -> int:
        return sum(add(number) for number in range(n))

    journal = memory()
    outcome = start(total, 3, journal=journal)
    assert (outcome.state, outcome.value) == (StateType.COMPLETED, 6)
    assert [row.name for row in rows(journal, "completed")] == ["add"] * 3


async def test_an_async_flow_awaits_async_tasks_and_calls_sync_ones() -> None:
    """Colour belongs to the function: `def` tasks are called, `async def` tasks awaited."""

    @flow
    async def mixed() -> int:
        return add(await later(2), 3)

    arguments: dict[str, Any] = {}
    outcome = await mixed.run_async(arguments, journal=memory(), options=options())
    assert outcome.value == 23


def test_a_sync_flow_submits_async_tasks() -> None:
    """From a sync flow, async tasks go through `.submit(...).result()` on one background loop."""

    @flow
    def sync() -> list[int]:
        return [future.result() for future in [later.submit(1), later.submit(2)]]

    assert value_of(sync) == [10, 20]


def test_an_async_flow_submits_sync_tasks() -> None:
    """A submitted sync task runs in a thread and is awaited like anything else."""

    @task
    def where() -> str:
        return threading.current_thread().name

    @flow
    async def asynchronous() -> str:
        return await where.submit()

    assert value_of(asynchronous) == "agentflow-task"


def test_a_thread_below_an_async_flow_submits_async_tasks_to_the_flows_loop() -> None:
    """An async task submitted from a submitted sync task runs where the flow's other async tasks run."""
    loops: list[Any] = []

    @task
    async def inner() -> int:
        loops.append(asyncio.get_running_loop())
        return 1

    @task
    def outer() -> int:
        return inner.submit().result()

    @flow
    async def asynchronous() -> int:
        loops.append(asyncio.get_running_loop())
        return await outer.submit()

    assert value_of(asynchronous) == 1
    assert loops[0] is loops[1]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_flow_inside_a_flow_is_a_step_of_the_same_run(colour: str) -> None:
    """A sub-flow makes no run of its own; its tasks stand below its step."""

    @flow
    def inner(x: int) -> int:
        return add(x)

    @flow
    async def inner_async(x: int) -> int:
        return add(x)

    @flow
    def outer() -> int:
        return inner(1) + inner(2)

    @flow
    async def outer_async() -> int:
        return inner(1) + await inner_async(2)

    journal = memory()
    assert start(outer if colour == "sync" else outer_async, journal=journal).value == 5
    assert [row.name for row in rows(journal, "completed") if row.kind == "flow"] == [
        "inner",
        "inner" if colour == "sync" else "inner_async",
    ]
    assert len(journal.list_runs(RunFilter())) == 1


def test_sub_flows_coerce_their_arguments() -> None:
    """A sub-flow validates as a flow does; a misfit raises in the caller."""

    @flow
    def inner(x: int) -> int:
        return x

    @flow
    def outer(value: Any) -> Any:
        try:
            return inner(value)
        except ParameterError:
            return "refused"

    assert value_of(outer, "12") == 12
    assert value_of(outer, "twelve") == "refused"


class Shop:
    name: ClassVar[str] = "shop"

    def __init__(self, rate: int) -> None:
        self.rate = rate

    @task
    def price(self, amount: int) -> int:
        return amount * self.rate

    @task
    async def slow_price(self, amount: int) -> int:
        await asyncio.sleep(0)
        return amount * self.rate

    @task
    @classmethod
    def title(cls, suffix: str) -> str:
        return cls.name + suffix

    @task
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @flow
    def sell(self, amount: int) -> int:
        return self.price(amount) + self.price.submit(amount).result()

    @flow
    @classmethod
    def describe(cls, suffix: str) -> str:
        title: Any = cls.title  # its type does not know that the class is bound
        return title(suffix)

    @flow
    @staticmethod
    def twice(x: int) -> int:
        return Shop.double(x)


def test_methods_of_every_kind_are_tasks_and_flows() -> None:
    """Instance, class and static methods, called through the instance or the class."""
    assert value_of(Shop(3).sell, 4) == 24
    assert value_of(Shop.describe, "!") == "shop!"
    assert value_of(Shop(3).describe, "?") == "shop?"
    assert value_of(Shop.twice, 4) == 8
    assert value_of(Shop(1).twice, 4) == 8


def test_async_methods_are_tasks() -> None:
    """An async method is awaited, also when submitted from a sync flow."""

    @flow
    async def asynchronous() -> int:
        return await Shop(2).slow_price(4)

    @flow
    def sync() -> int:
        return Shop(2).slow_price.submit(4).result()

    assert value_of(asynchronous) == value_of(sync) == 8


def test_with_options_of_a_method_keeps_its_kind() -> None:
    """Other options do not turn a class method into a plain function."""

    class Sub(Shop):
        other = Shop.title.with_options(name="other")

    @flow
    def run() -> str:
        other: Any = Sub.other
        return other("!")

    journal = memory()
    assert start(run, journal=journal).value == "shop!"
    assert rows(journal, "completed")[0].name == "other"


def test_methods_of_pydantic_models_are_tasks() -> None:
    """A model may have task methods, with `ignored_types` as for any other descriptor."""

    class Order(BaseModel):
        model_config = ConfigDict(ignored_types=(Task, Flow))
        amount: int

        @task
        def doubled(self) -> int:
            return 2 * self.amount

    @flow
    def run() -> int:
        return Order(amount=4).doubled()

    assert value_of(run) == 8


def test_callable_objects_are_tasks() -> None:
    """An object with `__call__` is a task named after its class."""

    @dataclass
    class Multiply:
        by: int

        def __call__(self, x: int) -> int:
            return x * self.by

    times_three = task(Multiply(3))

    @flow
    def run() -> int:
        return times_three(2)

    journal = memory()
    assert start(run, journal=journal).value == 6
    assert rows(journal, "completed")[0].name == "Multiply"


def test_names_and_descriptions_come_from_the_function() -> None:
    """A lambda is called unknown-lambda; the docstring is the description."""

    @flow
    def described() -> None:
        """What it does."""

    assert task(lambda: 1).name == "unknown-lambda"
    assert described.description == "What it does."
    assert task(name="other")(lambda: 1).name == "other"


def test_every_kind_of_parameter_arrives_as_in_python() -> None:
    """Positional-only, *args, keyword-only and **kwargs keep their places, whatever the names."""

    @task
    def inner(a: int, /, *args: int, b: int = 2, **kwargs: Any) -> list[Any]:
        return [a, list(args), b, kwargs]

    @flow
    def outer(a: int, /, *args: int, b: int = 2, **kwargs: int) -> list[Any]:
        return inner(a, *args, b=b, **kwargs)

    assert value_of(outer, 1, 2, 3, b=4, a=5, keys=6) == [1, [2, 3], 4, {"a": 5, "keys": 6}]
    assert value_of(outer, 1) == [1, [], 2, {}]


def test_a_mutable_default_is_shared_as_in_python() -> None:
    """The default object of a task is the function's own."""

    @task
    def collect(x: int, seen: list[int] = []) -> int:  # noqa: B006 - the point of the test
        seen.append(x)
        return len(seen)

    @flow
    def run() -> list[int]:
        return [collect(1), collect(2)]

    assert value_of(run) == [1, 2]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_tasks_arguments_are_the_very_objects(colour: str) -> None:
    """Nothing is copied or coerced on the way, whatever the annotations say."""
    given: Any = {"a": [1]}

    @task
    def is_given(value: int) -> bool:
        return cast("Any", value) is given

    @task
    async def is_given_async(value: int) -> bool:
        return cast("Any", value) is given

    @flow
    def run() -> list[bool]:
        return [is_given(given), is_given.submit(given).result()]

    @flow
    async def run_async() -> list[bool]:
        return [await is_given_async(given), await is_given_async.submit(given)]

    assert value_of(run if colour == "sync" else run_async) == [True, True]


def test_arguments_that_contain_themselves_do_not_crash_a_call() -> None:
    """A cycle among the arguments has a digest like anything else."""

    @task
    def size(items: list[Any]) -> int:
        return len(items)

    @flow
    def run() -> list[int]:
        items: list[Any] = [1]
        items.append(items)
        deep: list[Any] = []
        for _ in range(3_000):
            deep = [deep]
        return [size(items), size(deep), size.submit(items).result()]

    assert value_of(run) == [2, 1, 2]


def test_a_task_outside_of_a_flow_is_the_plain_function() -> None:
    """Nothing is recorded, nothing is needed."""
    assert add(1, y=2) == 3
    assert asyncio.run(later(1)) == 10


def test_what_needs_a_flow_says_so_outside_of_one() -> None:
    """Submitting, logging, waiting and asking for the context raise `MissingContextError` with a hint."""
    for call in (
        lambda: add.submit(1),
        lambda: add.map([1]),
        get_run_logger,
        get_run_context,
        lambda: wait_for_event("x"),
    ):
        with pytest.raises(MissingContextError, match="only inside a flow"):
            call()


def test_a_raw_thread_has_no_context() -> None:
    """A thread made by hand does not belong to the flow: it cannot submit or log."""
    raised: list[BaseException] = []

    def body() -> None:
        try:
            add.submit(1)
        except MissingContextError as error:
            raised.append(error)

    @flow
    def run() -> int:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        return len(raised)

    assert value_of(run) == 1
    assert "thread made by hand" in str(raised[0])


def test_a_task_that_is_never_awaited_fails_the_run() -> None:
    """A forgotten `await` is named, instead of nothing happening."""

    @flow
    async def forgetful() -> int:
        later(1)  # pyright: ignore[reportUnusedCoroutine]
        return 1

    outcome = start(forgetful)
    assert isinstance(outcome.error, NotAwaitedError)
    assert outcome.error.names == ("later",)


def test_a_flow_that_fails_leaves_no_warning_about_forgotten_awaits() -> None:
    """Its own exception is what counts."""

    @flow
    async def failing() -> int:
        later(1)  # pyright: ignore[reportUnusedCoroutine]
        message = "own"
        raise ValueError(message)

    assert isinstance(start(failing).error, ValueError)


def test_an_async_task_called_in_a_sync_flow_names_the_way_out() -> None:
    """It gives a coroutine, as Python does; the run fails and says how to get the result."""
    given: list[Any] = []

    @flow
    def sync() -> int:
        given.append(later(1))
        return 1

    error = start(sync).error
    assert isinstance(error, NotAwaitedError)
    assert ".result()" in str(error)
    assert inspect.iscoroutine(given[0])


@pytest.mark.parametrize("how", ["future", "wait"])
def test_blocking_a_thread_whose_loop_runs_is_refused_with_a_hint(how: str) -> None:
    """`.result()` of something that has not ended, on the loop's own thread, would never return."""
    go = threading.Event()

    @task
    def slow() -> int:
        go.wait(5)
        return 1

    @flow
    async def asynchronous() -> str:
        try:
            if how == "future":
                slow.submit().result()
            else:
                wait_for_event("x").result()
        except ColourError as error:
            go.set()
            return str(error)
        return ""

    assert "await" in value_of(asynchronous)


def test_sync_flows_run_on_a_thread_whose_loop_runs() -> None:
    """A server may call a sync flow that does not wait."""

    @flow
    def sync() -> int:
        return add(1)

    async def server() -> int:
        await asyncio.sleep(0)
        return value_of(sync)

    assert asyncio.run(server()) == 2


def test_what_cannot_be_called_is_refused_at_definition() -> None:
    """A task or flow is a function, or something like one."""
    for decorate in (task, flow):
        with pytest.raises(DefinitionError, match="wants a function"):
            decorate(cast("Any", 5))


def test_the_context_says_where_the_caller_stands() -> None:
    """Run, flow, step and attempt."""

    @task(retries=1)
    def inner() -> list[Any]:
        context = get_run_context()
        if context.attempt == 1:
            raise ValueError
        return [context.flow, context.step, context.attempt]

    @flow
    def outer() -> list[Any]:
        return [inner(), get_run_context().step]

    assert value_of(outer) == [["outer", "inner", 2], "outer"]
