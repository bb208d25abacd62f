"""Whatever can be called can be a task or a flow: methods of every kind, callable objects, partials, lambdas."""

from __future__ import annotations

import asyncio
import functools
import operator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from agentflow import Flow, Task, flow, task
from tests.fundamentals.lives import Death, die, memory, resume, rows, start, value_of


class Plain:
    town: ClassVar[str] = "Bern"

    def __init__(self, rate: int = 1) -> None:
        self.rate = rate

    @task
    def price(self, amount: int) -> int:
        return amount * self.rate

    @task
    async def price_async(self, amount: int) -> int:
        await asyncio.sleep(0)
        return amount * self.rate

    @task
    @classmethod
    def title(cls, suffix: str) -> str:
        return cls.town + suffix

    @task
    @classmethod
    async def title_async(cls, suffix: str) -> str:
        await asyncio.sleep(0)
        return cls.town + suffix

    @task
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @task
    @staticmethod
    async def double_async(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    @flow
    def sell(self, amount: int) -> list[Any]:
        kind: Any = type(self)
        return [self.price(amount), kind.title("!"), self.double(amount), kind.double(amount)]

    @flow
    async def sell_async(self, amount: int) -> list[Any]:
        kind: Any = type(self)
        return [
            await self.price_async(amount),
            await kind.title_async("!"),
            await self.double_async(amount),
            await kind.double_async(amount),
        ]

    @flow
    @classmethod
    def where(cls) -> str:
        return cls.town

    @flow
    @staticmethod
    def twice(x: int) -> int:
        return 2 * x


@dataclass
class Data:
    rate: int = 1
    town: ClassVar[str] = "Bern"
    seen: list[int] = field(default_factory=list[int])

    price = Plain.price
    price_async = Plain.price_async
    title = Plain.title
    title_async = Plain.title_async
    double = Plain.double
    double_async = Plain.double_async
    sell = Plain.sell
    sell_async = Plain.sell_async


class Model(BaseModel):
    model_config = ConfigDict(ignored_types=(Task, Flow))
    rate: int = 1
    town: ClassVar[str] = "Bern"
    seen: list[int] = Field(default_factory=list[int])

    price = Plain.price
    price_async = Plain.price_async
    title = Plain.title
    title_async = Plain.title_async
    double = Plain.double
    double_async = Plain.double_async
    sell = Plain.sell
    sell_async = Plain.sell_async


class Elsewhere(Plain):
    town: ClassVar[str] = "Oslo"


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("kind", [Plain, Data, Model])
def test_methods_of_plain_classes_dataclasses_and_models(kind: Any, colour: str) -> None:
    """Instance, class and static methods, as tasks of a flow that is a method itself."""
    shop = kind(rate=3)
    assert value_of(shop.sell if colour == "sync" else shop.sell_async, 4) == [12, "Bern!", 8, 8]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_class_method_gets_the_class_it_is_called_on(colour: str) -> None:
    """A subclass receives itself, whatever options are laid over the task or flow."""
    sold = Elsewhere(3).sell if colour == "sync" else Elsewhere(3).sell_async
    assert value_of(sold, 4)[1] == "Oslo!"
    assert value_of(Elsewhere.where) == "Oslo"
    assert value_of(Elsewhere.where.with_options(retries=1)) == "Oslo"
    assert value_of(Elsewhere().where.with_options(retries=1)) == "Oslo"


@pytest.mark.parametrize("submitted", [False, True], ids=["called", "submitted"])
def test_other_options_keep_the_receiver(submitted: bool) -> None:
    """`with_options` of a bound method is bound to the same object; flows keep their names."""
    shop = Plain(3)
    price, title = shop.price.with_options(name="other"), Elsewhere.title.with_options(tags=["x"])

    @flow
    def run() -> list[Any]:
        called: Any = title
        if submitted:
            return [price.submit(4).result(), called.submit("!").result()]
        return [price(4), called("!")]

    journal = memory()
    assert start(run, journal=journal).value == [12, "Oslo!"]
    assert [row.name for row in rows(journal)] == ["other", "Plain.title"]
    other = shop.sell.with_options(description="again")
    assert (other.name, other.description) == ("Plain.sell", "again")
    assert value_of(other, 1)[0] == 3


def test_the_classes_of_tasks_and_flows_are_kept() -> None:
    """Subclasses of Task and Flow stay themselves with other options and when they are bound."""

    class MyTask(Task[..., Any]):
        pass

    class MyFlow(Flow[..., Any]):
        pass

    def body(self: Any) -> Any:
        return self

    class Holder:
        task = MyTask(body)
        flow = MyFlow(body)

    assert type(Holder().task.with_options(retries=1)) is MyTask
    assert type(Holder().flow.with_options(retries=1)) is MyFlow


def test_flows_bound_to_different_objects_are_different_steps() -> None:
    """The receiver of a sub-flow counts like an argument: each finds its own record again."""
    alive: list[bool] = []
    ran: list[int] = []

    class Sized(BaseModel):
        model_config = ConfigDict(ignored_types=(Task, Flow))
        rate: int

        @flow
        def scaled(self, x: int) -> int:
            ran.append(self.rate)
            return x * self.rate

    @flow
    def run() -> list[int]:
        rates = [1, 2] if not alive else [2, 1]
        found = [Sized(rate=rate).scaled(10) for rate in rates]
        if not alive:
            alive.append(True)
            raise Death
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [20, 10]
    assert ran == [1, 2]


def test_callable_objects_are_told_apart_by_what_they_hold() -> None:
    """Two objects of one class make different steps, sync and async; the task is named after the class."""
    ran: list[int] = []
    alive: list[bool] = []

    @dataclass
    class Multiply:
        by: int

        def __call__(self, x: int) -> int:
            ran.append(self.by)
            return x * self.by

    @dataclass
    class Later:
        by: int

        async def __call__(self, x: int) -> int:
            await asyncio.sleep(0)
            ran.append(self.by)
            return x * self.by

    @flow
    async def run() -> list[int]:
        factors = [2, 3] if not alive else [3, 2]
        found = [task(Multiply(by))(1) for by in factors] + [await task(Later(by))(10) for by in factors]
        if not alive:
            alive.append(True)
            raise Death
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [3, 2, 30, 20]
    assert ran == [2, 3, 2, 3]
    assert {row.name for row in rows(journal)} == {"Multiply", "Later"}
    assert task(Multiply(2)).fn(4) == 8


def test_partials_are_named_and_told_apart_by_what_they_hold() -> None:
    """A partial has the name of its function; what it brings along counts like arguments."""
    ran: list[tuple[int, int]] = []
    alive: list[bool] = []

    def add(x: int, y: int) -> int:
        ran.append((x, y))
        return x + y

    @flow
    def run() -> list[int]:
        firsts = [1, 2] if not alive else [2, 1]
        found = [task(functools.partial(add, first))(10) for first in firsts]
        if not alive:
            alive.append(True)
            raise Death
        return found

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [12, 11]
    assert ran == [(1, 10), (2, 10)]
    assert {row.name for row in rows(journal)} == {"add"}


def test_bound_methods_builtins_and_lambdas_are_tasks() -> None:
    """What Python can call, a flow can record."""

    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def up(self, by: int) -> int:
            self.count += by
            return self.count

    up = task(Counter().up)
    longest: Task[..., int] = task(len)
    product = task(operator.mul)
    one = task(lambda: 1)

    @flow
    def run() -> list[int]:
        return [up(2), up(3), longest("four"), product(6, 7), one()]

    journal = memory()
    assert start(run, journal=journal).value == [2, 5, 4, 42, 1]
    assert [row.name for row in rows(journal)] == ["Counter.up", "Counter.up", "len", "mul", "unknown-lambda"]


def test_callable_objects_and_partials_are_flows() -> None:
    """With the name of their class, or of their function."""

    @dataclass
    class Multiply:
        """Multiplies."""

        by: int

        def __call__(self, x: int) -> int:
            return x * self.by

    def add(x: int, y: int) -> int:
        return x + y

    multiply, partly = flow(Multiply(3)), flow(functools.partial(add, 1))
    assert (multiply.name, multiply.description, value_of(multiply, "4")) == ("Multiply", "Multiplies.", 12)
    assert (partly.name, value_of(partly, "4")) == ("add", 5)


def test_odd_parameter_names_arrive() -> None:
    """A positional-only parameter leaves its name free for **kwargs; `keys`, `self` and `fn` are names like others."""

    @task
    def inner(a: int, /, **kwargs: int) -> list[Any]:
        return [a, kwargs]

    @task
    def named(keys: int, fn: int = 0, *, args: int = 1) -> list[int]:
        return [keys, fn, args]

    @flow
    def run(a: int, /, keys: int, **kwargs: int) -> list[Any]:
        return [a, keys, kwargs, inner(1, a=2, self=3, name=4, keys=5), named(keys=1, fn=2, args=3)]

    journal = memory()
    expected = [1, 2, {"a": 3, "self": 4}, [1, {"a": 2, "self": 3, "name": 4, "keys": 5}], [1, 2, 3]]
    assert (
        run.run(run.binder.arguments((1,), {"keys": 2, "a": 3, "self": 4}), journal=journal).value == expected
    )


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_order_of_arguments_is_kept(colour: str) -> None:
    """Extra positional and keyword arguments arrive in the order in which they were given."""

    @task
    def inner(*args: int, **kwargs: int) -> list[Any]:
        return [list(args), list(kwargs)]

    @task
    async def inner_async(*args: int, **kwargs: int) -> list[Any]:
        await asyncio.sleep(0)
        return [list(args), list(kwargs)]

    @flow
    def run(*args: int, **kwargs: int) -> list[Any]:
        return [list(args), list(kwargs), inner(*args, **kwargs)]

    @flow
    async def run_async(*args: int, **kwargs: int) -> list[Any]:
        return [list(args), list(kwargs), await inner_async(*args, **kwargs)]

    chosen = run if colour == "sync" else run_async
    assert value_of(chosen, 3, 1, 2, z=1, a=2) == [[3, 1, 2], ["z", "a"], [[3, 1, 2], ["z", "a"]]]
