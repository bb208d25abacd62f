"""Parameters of flows: validated and coerced by their annotations, described as JSON schema, refused before any run."""

from __future__ import annotations

import asyncio
import threading
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import BaseModel, Field

from agentflow import flow, send_event, wait_for_event
from agentflow.errors import NotResumableError, ParameterError
from agentflow.journal.protocol import RunFilter
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.views import run_view
from tests.fundamentals.lives import (
    Death,
    always,
    die,
    last_run,
    log_of,
    memory,
    options,
    resume,
    start,
    value_of,
)


class Item(BaseModel):
    name: str
    price: Decimal = Decimal(1)


@flow
def typed(
    count: int,
    item: Item = cast("Item", {"name": "default"}),  # noqa: B008 - a dict, to be coerced
    *,
    mode: Literal["fast", "slow"] = "fast",
    day: date | None = None,
    small: Annotated[int, Field(le=10)] = 1,
) -> list[Any]:
    """Something with parameters."""
    return [count, item, mode, day, small]


def test_arguments_are_coerced_by_their_annotations() -> None:
    """Text to int and date, a dict to a model; a default as well."""
    assert value_of(typed, "1", {"name": "x", "price": "2.50"}, day="2026-01-02") == [
        1,
        Item(name="x", price=Decimal("2.50")),
        "fast",
        date(2026, 1, 2),
        1,
    ]
    assert value_of(typed, 1)[1] == Item(name="default")


def test_async_flows_and_sub_flows_coerce_too() -> None:
    """Whatever the colour, and wherever they are called."""

    @flow
    async def later(item: Item, count: int = cast("int", "3")) -> list[Any]:
        return [item, count]

    @flow
    async def outer() -> list[Any]:
        return await later(cast("Item", {"name": "x"}))

    assert value_of(later, {"name": "x"}) == [Item(name="x"), 3]
    assert value_of(outer) == [Item(name="x"), 3]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        pytest.param(("x",), {}, ["typed: count", "valid integer", "'x'"], id="wrong type"),
        pytest.param((1,), {"mode": "medium"}, ["typed: mode", "'fast' or 'slow'"], id="not one of"),
        pytest.param((1, {"price": 1}), {}, ["item.name", "required"], id="inside of a model"),
        pytest.param((1,), {"small": 11}, ["small", "less than or equal to 10"], id="constraint"),
        pytest.param(("x",), {"small": 11}, ["count", "small"], id="all faults at once"),
        pytest.param((), {}, ["missing a required argument: 'count'"], id="missing"),
        pytest.param((1, 2, 3), {}, ["too many positional"], id="too many"),
        pytest.param((1,), {"other": 2}, ["unexpected keyword argument 'other'"], id="unknown"),
    ],
)
def test_a_misfit_is_refused_before_any_run_exists(
    args: Any, kwargs: Any, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ParameterError` names each fault: where, what, and what came instead."""
    journal = memory()
    monkeypatch.setattr("agentflow.beginning.open_journal", always(journal))
    with pytest.raises(ParameterError) as caught:
        typed(*args, **kwargs)
    assert [word for word in words if word not in str(caught.value)] == []
    assert journal.list_runs(RunFilter()) == []


def test_an_async_flow_refuses_when_it_is_called() -> None:
    """Not only when it is awaited."""

    @flow
    async def asynchronous(x: int) -> int:
        await asyncio.sleep(0)
        return x

    with pytest.raises(ParameterError):
        cast("Any", asynchronous)("x")


def test_validation_can_be_switched_off() -> None:
    """Then arguments arrive as they were given."""

    @flow(validate_parameters=False)
    def loose(x: int) -> Any:
        return x

    journal = memory()
    assert loose.run(loose.binder.arguments(("1",), {}), journal=journal).value == "1"


def test_a_model_keeps_its_identity_and_a_list_is_a_copy() -> None:
    """As pydantic does it."""
    item, numbers = Item(name="x"), [1]
    seen: list[Any] = []

    @flow
    def look(one: Item, many: list[int]) -> None:
        seen.extend([one, many])

    start(look, item, numbers)
    assert seen[0] is item
    assert seen[1] == numbers
    assert seen[1] is not numbers


def test_the_schema_comes_from_the_signature() -> None:
    """Types, defaults, constraints and models as JSON schema 2020-12, closed to unknown names."""
    schema = typed.parameters_schema
    assert schema["required"] == ["count"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["count"]["type"] == "integer"
    assert schema["properties"]["mode"]["enum"] == ["fast", "slow"]
    assert schema["properties"]["mode"]["default"] == "fast"
    assert schema["properties"]["small"]["maximum"] == 10
    assert schema["properties"]["item"]["required"] == ["name"]


def test_extra_arguments_are_described_and_gathered() -> None:
    """`**kwargs` opens the schema; by name, extras find their way."""

    @flow
    def open_ended(x: int, **extra: int) -> Any:
        return extra

    assert open_ended.parameters_schema["additionalProperties"] == {"type": "integer"}
    arguments = open_ended.binder.validate_named({"x": "1", "other": "2"})
    assert open_ended.run(arguments, journal=memory()).value == {"other": 2}
    with pytest.raises(ParameterError, match="other"):
        open_ended.binder.validate_named({"x": 1, "other": "two"})


def test_arguments_by_name_are_checked_by_name() -> None:
    """From a command line or a model: unknown and missing names are said."""
    with pytest.raises(ParameterError, match="no parameter 'what'; it has: count"):
        typed.binder.validate_named({"what": 1})
    with pytest.raises(ParameterError, match="needs the parameter 'count'"):
        typed.binder.validate_named({})


def test_the_schema_of_a_method_leaves_its_receiver_out() -> None:
    """`self` and `cls` are nobody's argument."""

    class Shop:
        @flow
        def sell(self, amount: int) -> int:
            return amount

        @flow
        @classmethod
        def open(cls, day: int) -> int:
            return day

    assert list(Shop().sell.parameters_schema["properties"]) == ["amount"]
    assert list(Shop.open.parameters_schema["properties"]) == ["day"]


def test_the_result_has_a_schema_where_the_annotation_says_enough() -> None:
    """An unannotated result is anything."""

    @flow
    def annotated() -> Item:
        return Item(name="x")

    @flow
    def bare() -> Any:
        return 1

    assert annotated.result_schema["title"] == "Item"
    assert bare.result_schema == {}


def test_a_mutable_default_is_shared_and_its_record_is_not() -> None:
    """An untyped parameter is the very object, as in Python; a later life gets it as it was when the run began."""
    alive: list[bool] = []

    @flow
    def collect(x: int, seen: Any = []) -> list[int]:  # noqa: B006 - the point of the test
        seen.append(x)
        if x == 2 and not alive:
            alive.append(True)
            raise Death
        return seen

    journal = memory()
    assert start(collect, 1, journal=journal).value == [1]
    run_id = die(collect, 2, journal=journal)
    assert resume(collect, run_id, journal).value == [1, 2]
    assert start(collect, 3, journal=journal).value == [1, 2, 3]


def test_an_argument_that_cannot_be_stored_does_not_keep_a_flow_from_running() -> None:
    """Called from Python, it gets the object itself; people see what it was, and the log says what follows."""

    @flow
    def use(items: Any, lock: Any, number: int) -> list[Any]:
        return [len(items), lock.locked(), number]

    whole: list[Any] = [1]
    whole.append(whole)
    journal = memory()
    assert start(use, whole, threading.Lock(), 3, journal=journal).value == [2, False, 3]
    (run,) = journal.list_runs(RunFilter())
    assert run_view(run)["parameters"] == {"items": "<Cyclic>", "lock": "<lock>", "number": 3}
    assert "cannot be resumed" in log_of(journal)[0]


def test_a_run_that_died_with_such_an_argument_cannot_be_resumed() -> None:
    """A later life says what is missing, and the run has ended; no process tries it again and again."""

    @flow
    def use(lock: Any) -> None:
        raise Death

    journal = memory()
    run_id = die(use, threading.Lock(), journal=journal)
    with pytest.raises(NotResumableError, match=r"lock \(<lock>\) could not be stored.*start the flow anew"):
        resume(use, run_id, journal)
    (run,) = journal.list_runs(RunFilter())
    assert run.state is StateType.CRASHED
    assert journal.due_runs(0.0) == []


def test_a_run_with_such_an_argument_never_leaves_memory() -> None:
    """It waits where it is: it could not come back."""

    @flow
    def use(lock: Any) -> str:
        return wait_for_event("go").result() + str(lock.locked())

    journal = memory()
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(start(use, threading.Lock(), journal=journal)))
    paused = threading.Event()
    undo = journal.subscribe(
        lambda: (
            paused.set()
            if any(run.state is StateType.PAUSED for run in journal.list_runs(RunFilter()))
            else None
        )
    )
    thread.start()
    assert paused.wait(10)
    undo()
    assert thread.is_alive()
    send_event(last_run(journal), "go", "went ", journal=journal)
    thread.join(10)
    assert outcomes[0].value == "went False"


def _lose() -> None:
    raise ValueError("lost")


class Lossy:
    """Can be pickled, and not read back."""

    def __reduce__(self) -> Any:
        return _lose, ()


def test_an_argument_that_would_not_come_back_counts_as_one_that_cannot_be_stored() -> None:
    """It is tried when the run begins, not when it is too late."""

    @flow
    def use(thing: Any) -> int:
        return 1

    journal = memory()
    assert start(use, Lossy(), journal=journal).value == 1
    (run,) = journal.list_runs(RunFilter())
    assert run_view(run)["parameters"] == {"thing": "<Lossy>"}


def test_commands_and_servers_refuse_what_cannot_be_stored() -> None:
    """A run that any process may take up needs all of its arguments."""

    @flow
    def use(thing: Any) -> Any:
        return thing

    journal = memory()
    with pytest.raises(ParameterError, match=r"thing \(<lock>\) cannot be stored"):
        use.new_run({"thing": threading.Lock()}, journal, options(), Origin.PERSON)
