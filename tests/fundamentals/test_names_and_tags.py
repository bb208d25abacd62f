"""Names and labels, for people: of runs, of single calls, of everything in a block."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from agentflow import flow, get_run_context, tags, task
from agentflow.engine.context import CURRENT
from agentflow.engine.tags import effective_tags
from agentflow.errors import DefinitionError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.names import readable_name
from agentflow.views import steps_of
from tests.fundamentals.lives import Death, die, last_run, memory, options, resume, rows, start, value_of


@dataclass
class Order:
    number: int
    lines: list[str]


def run_name(journal: Journal) -> str:
    (run, *_) = journal.list_runs(RunFilter())
    return run.name


def call_names(journal: Journal) -> list[str]:
    (run, *_) = journal.list_runs(RunFilter())
    return [step["run_name"] for step in steps_of(journal, run)]


# -- names
def test_a_run_is_named_by_a_template_over_its_parameters() -> None:
    """Attributes, items, formats and conversions work as in `str.format`."""

    @flow(flow_run_name="order {order.number:>4} {order.lines[0]!r} of {day}")
    def handle(order: Order, day: str = "Monday") -> int:
        return order.number

    journal = memory()
    start(handle, Order(7, ["a b"]), journal=journal)
    assert run_name(journal) == "order 7 'a b' of Monday"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_run_may_be_named_by_a_function(colour: str) -> None:
    """A function without parameters, or with one called `parameters`."""

    def of_parameters(parameters: dict[str, Any]) -> str:
        return f"day {parameters['day']}"

    @flow(flow_run_name=of_parameters)
    def by_parameters(day: int) -> str:
        return get_run_context().run_name

    @flow(flow_run_name=lambda: "always the same")
    async def by_nothing(day: int) -> str:
        await asyncio.sleep(0)
        return get_run_context().run_name

    assert value_of(by_parameters if colour == "sync" else by_nothing, 3) == (
        "day 3" if colour == "sync" else "always the same"
    )


def test_a_run_without_a_name_gets_a_readable_one() -> None:
    """An adjective and an animal, the same for the same id."""

    @flow
    def unnamed() -> None:
        return

    journal = memory()
    start(unnamed, journal=journal)
    assert re.fullmatch(r"[a-z]+-[a-z]+", run_name(journal))
    assert run_name(journal) == readable_name(last_run(journal))


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_call_is_named_once_whatever_its_retries(colour: str) -> None:
    """The name of a task run is evaluated when it begins; a retry keeps it, and so does a later life."""
    asked: list[int] = []
    alive: list[bool] = []

    def name(parameters: dict[str, Any]) -> str:
        asked.append(parameters["number"])
        return f"call {len(asked)}"

    def body(number: int) -> str:
        context = get_run_context()
        if context.attempt < 3:
            raise ValueError
        if not alive:
            alive.append(True)
            raise Death
        return context.task_run_name

    @task(task_run_name=name, retries=2)
    def flaky(number: int) -> str:
        return body(number)

    @task(task_run_name=name, retries=2)
    async def flaky_async(number: int) -> str:
        await asyncio.sleep(0)
        return body(number)

    @flow
    def run() -> str:
        return flaky(1)

    @flow
    async def run_async() -> str:
        return await flaky_async(1)

    journal, chosen = memory(), run if colour == "sync" else run_async
    run_id = die(chosen, journal=journal)
    assert resume(chosen, run_id, journal).value == "call 1"
    assert asked == [1]
    assert set(call_names(journal)) == {"call 1"}


def test_a_call_may_be_named_after_its_receiver() -> None:
    """`self` is a parameter like any other, for methods, class methods and callable objects."""

    class Shop:
        town = "Bern"

        def __init__(self, street: str) -> None:
            self.street = street

        @task(task_run_name="{self.street} {amount}")
        def sell(self, amount: int) -> int:
            return amount

        @task(task_run_name="in {cls.town}")
        @classmethod
        def open(cls) -> None:
            return

        @flow(flow_run_name="shop in {self.street}")
        def trade(self) -> int:
            opened: Any = self.open
            opened()
            return self.sell(1) + Multiply(2)(4)

    class Multiply:
        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, x: int) -> int:
            named = task(task_run_name="times {self.by}")(_Times(self.by))
            return named(x)

    journal = memory()
    assert start(Shop("High Street").trade, journal=journal).value == 9
    assert run_name(journal) == "shop in High Street"
    assert call_names(journal) == ["in Bern", "High Street 1", "times 2"]


@dataclass
class _Times:
    by: int

    def __call__(self, x: int) -> int:
        return x * self.by


def test_sub_flows_and_side_effects_have_names_too() -> None:
    """The name stands beside the step, also while it runs and where it failed."""

    @task(side_effect=True, task_run_name="pay {amount}")
    def pay(amount: int) -> int:
        return amount

    @flow(flow_run_name="inner {x}")
    def inner(x: int) -> int:
        return pay(x)

    @task(task_run_name="bad {x}")
    def bad(x: int) -> int:
        raise ValueError(x)

    @flow
    def outer() -> int:
        try:
            bad(1)
        except ValueError:
            return inner(5)
        return 0

    journal = memory()
    assert start(outer, journal=journal).value == 5
    assert [(row.event, orjson.loads(row.detail or b"{}")["run_name"]) for row in journal.steps(1)] == [
        ("failed", "bad 1"),
        ("started", "inner 5"),
        ("intent", "pay 5"),
        ("completed", "pay 5"),
        ("completed", "inner 5"),
    ]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        pytest.param("{y}", "no parameter 'y'; there are: x", id="unknown parameter"),
        pytest.param("{0}", "names no parameter", id="position"),
        pytest.param("{}", "names no parameter", id="nothing"),
        pytest.param("{x", "is no template", id="open brace"),
        pytest.param("{x.__class__.__init__.__globals__[os]}", "something private", id="private"),
        pytest.param("{x:{y}}", "no parameter 'y'", id="inside of a format"),
        pytest.param(5, "wants a template or a function", id="neither"),
    ],
)
def test_a_bad_template_is_refused_at_definition(template: Any, words: str) -> None:
    """It names the option, the template and what is wrong."""

    def body(x: int) -> int:
        return x

    with pytest.raises(DefinitionError, match=re.escape(words)):
        task(task_run_name=template)(body)
    with pytest.raises(DefinitionError, match="flow_run_name"):
        flow(flow_run_name=template)(body)


def test_a_name_that_cannot_be_made_is_a_clear_error() -> None:
    """No run is made for a flow whose name fails; the call of a task raises."""

    @task(task_run_name="{x.nothing}")
    def inner(x: int) -> int:
        return x

    @flow(flow_run_name=lambda: 5)  # pyright: ignore[reportArgumentType]
    def unnameable() -> None:
        return

    @flow
    def outer() -> int:
        return inner(1)

    journal = memory()
    with pytest.raises(DefinitionError, match=r"cannot be filled in \(AttributeError"):
        value_of(outer)
    with pytest.raises(DefinitionError, match="returned 5"):
        start(unnameable, journal=journal)
    assert journal.list_runs(RunFilter()) == []


def test_values_are_no_templates_and_secrets_stay_masked() -> None:
    """Braces in an argument are text; a secret is shown as stars; a name is one line."""

    @task(task_run_name="{text} {secret}")
    def show(text: str, secret: SecretStr) -> None:
        return

    @flow
    def run() -> None:
        show("{secret.__class__}\n{0}", SecretStr("hunter2"))

    journal = memory()
    start(run, journal=journal)
    assert call_names(journal) == ["{secret.__class__} {0} **********"]


# -- tags
def test_tags_of_run_block_flow_and_task_add_up() -> None:
    """What runs in a block has its tags, beside those of the flow and the task around it."""

    @task(tags=["task"])
    def tagged() -> list[str]:
        return sorted(get_run_context().tags)

    @task
    def bare() -> list[str]:
        return sorted(get_run_context().tags)

    @task(tags=["around"])
    def around() -> list[str]:
        return bare()

    @flow(tags=["inner"])
    def inner() -> list[str]:
        return tagged()

    @flow(tags=["flow"])
    def outer() -> list[list[str]]:
        with tags("a"), tags("b", "a"):
            within = [tagged(), inner()]
        return [*within, bare(), around()]

    journal = memory()
    with tags("outside"):
        outcome = start(outer, journal=journal)
    assert outcome.value == [
        ["a", "b", "flow", "outside", "task"],
        ["a", "b", "flow", "inner", "outside", "task"],
        ["flow", "outside"],
        ["around", "flow", "outside"],
    ]
    (run,) = journal.list_runs(RunFilter())
    assert run.tags == ("flow", "outside")


def test_tags_are_recorded_with_a_step_where_its_run_does_not_have_them() -> None:
    """Plain calls without tags are recorded without a word about them."""

    @task
    def bare(x: int) -> int:
        return x

    @task(tags=["own", "flow"])
    def tagged() -> int:
        return 1

    @flow(tags=["flow"])
    def run() -> None:
        bare(1)
        with tags("a"):
            bare(2)
            tagged()

    journal = memory()
    start(run, journal=journal)
    assert [row.detail for row in rows(journal)] == [None, b'{"tags":["a"]}', b'{"tags":["a","own"]}']


def test_tags_reach_threads_and_branches() -> None:
    """Submitted and mapped tasks and asyncio tasks have the tags of the block that made them."""

    @task
    def below(x: int) -> list[str]:
        return sorted(get_run_context().tags)

    @task
    async def below_async(x: int) -> list[str]:
        await asyncio.sleep(0)
        return sorted(get_run_context().tags)

    @flow
    async def run() -> list[list[str]]:
        with tags("a"):
            futures = [below.submit(0), *below.map([1]), below_async.submit(2)]
            branch = asyncio.ensure_future(below_async(3))
        return [*[await future for future in futures], await branch, await below_async(4)]

    assert value_of(run) == [["a"]] * 4 + [[]]


def test_a_replay_has_the_same_tags() -> None:
    """The run keeps the tags that it began with; those of blocks come from the code."""
    alive: list[bool] = []

    @task
    def seen(x: int) -> list[str]:
        return sorted(get_run_context().tags)

    @flow(tags=["flow"])
    def run() -> list[list[str]]:
        with tags("a"):
            first = seen(1)
            if not alive:
                alive.append(True)
                raise Death
            return [first, seen(2)]

    journal = memory()
    with tags("outside"):
        run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [["a", "flow", "outside"]] * 2


def test_the_engine_asks_for_the_tags_of_a_frame_or_a_call() -> None:
    """One function for all who need them."""
    found: list[frozenset[str]] = []

    @task(tags=["task"])
    def look() -> None:
        frame = CURRENT.get()
        assert frame is not None
        found.append(effective_tags(frame))

    @flow(tags=["flow"])
    def run() -> None:
        look()

    start(run)
    assert found == [frozenset({"flow", "task"})]


def test_runs_are_listed_by_tag() -> None:
    """Those that have all of the given tags, whole."""

    @flow
    def run() -> None:
        return

    journal = memory()
    for labels in (["red"], ["red", "big"], ["redder"], []):
        with tags(*labels):
            start(run, journal=journal)
    assert [item.number for item in journal.list_runs(RunFilter(tags=("red",)))] == [2, 1]
    assert [item.number for item in journal.list_runs(RunFilter(tags=("red", "big")))] == [2]


def test_what_is_no_tag_is_refused() -> None:
    """Empty, of several lines, not text, or a text where a list is meant."""

    def body() -> None:
        return

    for wrong in (["a\nb"], [""], [5], "text"):
        given: Any = wrong
        with pytest.raises(DefinitionError, match=r"no tag|give a list"):
            task(tags=given)(body)
        with pytest.raises(DefinitionError, match=r"no tag|give a list"):
            flow(tags=given)(body)
    with pytest.raises(DefinitionError), tags("a\nb"):
        pass


def test_the_context_knows_names_parameters_and_tags() -> None:
    """What a task can ask of the run it belongs to."""

    @task(task_run_name="look at {x}", tags=["task"])
    def look(x: int) -> dict[str, Any]:
        context = get_run_context()
        return {
            "flow": context.flow,
            "run": context.run_name,
            "task": context.task_run_name,
            "parameters": context.parameters,
            "tags": sorted(context.tags),
        }

    @flow(flow_run_name="run {n}", tags=["flow"])
    def run(n: int, word: str = "w") -> dict[str, Any]:
        return look(n)

    assert value_of(run, 3, using=options()) == {
        "flow": "run",
        "run": "run 3",
        "task": "look at 3",
        "parameters": {"n": 3, "word": "w"},
        "tags": ["flow", "task"],
    }
