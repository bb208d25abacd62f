"""Generators as flows: their runs begin with the first item, and their results are the lists of their items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import closing
from typing import Any, cast

import pytest
from pydantic import BaseModel

from agentflow import flow, task
from agentflow.journal.protocol import RunFilter
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from tests.fundamentals.lives import Death, always, die, last_run, memory, options, resume


class Item(BaseModel):
    name: str


class Life:
    """Whether this is the first life."""

    def __init__(self) -> None:
        self.first = True

    def end(self) -> None:
        """The first life ends here."""
        if self.first:
            self.first = False
            raise Death


@task
def count(n: int) -> Iterator[int]:
    yield from range(n)


@task
async def count_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0)
        yield number


@flow
def doubled(n: int) -> Iterator[int]:
    """Twice each number."""
    for number in count(n):
        yield 2 * number


@flow
async def doubled_async(n: int) -> AsyncIterator[int]:
    """Twice each number."""
    async for number in count_async(n):
        yield 2 * number


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_flow_is_lazy_and_its_result_is_the_list_of_its_items(
    colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called, its run begins with the first item; its parameters are validated before."""
    journal = memory()
    monkeypatch.setattr("agentflow.beginning.open_journal", always(journal))
    states: list[StateType] = []

    def look() -> None:
        states.extend(run.state for run in journal.list_runs(RunFilter()))

    async def consume() -> list[int]:
        found: list[int] = []
        stream = doubled_async(cast("Any", "3"))
        look()
        async for item in stream:
            look()
            found.append(item)
        return found

    if colour == "sync":
        stream = doubled(cast("Any", "3"))
        look()
        found: list[int] = []
        for item in stream:
            look()
            found.append(item)
    else:
        found = asyncio.run(consume())
    assert found == [0, 2, 4]
    assert states == [StateType.RUNNING] * 3
    (run,) = journal.list_runs(RunFilter())
    assert (run.state, run.result) == (StateType.COMPLETED, b"[0,2,4]")


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_flow_in_a_life_of_its_own_is_a_list(colour: str) -> None:
    """Started by a command or a server, and when it is resumed."""
    chosen = doubled if colour == "sync" else doubled_async
    arguments = {"n": 3}
    assert chosen.run(arguments, journal=memory(), options=options()).value == [0, 2, 4]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_flow_inside_of_a_flow_is_a_step(colour: str) -> None:
    """Lazy, recorded at its end, given again on replay."""
    life = Life()

    @flow
    def run() -> list[int]:
        found = list(doubled(3))
        life.end()
        return found

    @flow
    async def run_async() -> list[int]:
        found = [item async for item in doubled_async(3)]
        life.end()
        return found

    journal, chosen = memory(), run if colour == "sync" else run_async
    run_id = die(chosen, journal=journal)
    outcome = resume(chosen, run_id, journal)
    assert outcome.value == [0, 2, 4]
    assert outcome.tally.executed == 0


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_flow_that_fails_gives_its_items_first(
    colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its retries give all items again; then its exception reaches the consumer, and the run has failed."""
    journal = memory()
    monkeypatch.setattr("agentflow.beginning.open_journal", always(journal))

    @flow(retries=1)
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    @flow(retries=1)
    async def failing_async() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    found: list[int] = []

    async def consume() -> None:
        async for item in failing_async():
            found.append(item)  # noqa: PERF401 - item by item is the point

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(consume()) if colour == "async" else found.extend(failing())
    (run,) = journal.list_runs(RunFilter())
    assert run.state is StateType.FAILED
    if colour == "async":
        assert found == [1, 1]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_generator_flow_that_its_consumer_leaves_has_completed(
    colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed, its result is what it has yielded so far."""
    journal = memory()
    monkeypatch.setattr("agentflow.beginning.open_journal", always(journal))

    async def consume() -> None:
        stream = cast("AsyncGenerator[int]", doubled_async(5))
        await anext(stream)
        await anext(stream)
        await stream.aclose()

    if colour == "async":
        asyncio.run(consume())
    else:
        with closing(cast("Generator[int]", doubled(5))) as stream:
            next(stream)
            next(stream)
    (run,) = journal.list_runs(RunFilter())
    assert (run.state, run.result) == (StateType.COMPLETED, b"[0,2]")


def test_the_result_of_a_generator_flow_is_described_as_a_list() -> None:
    """For tools and the API: of what it yields, by its annotation."""

    @flow
    def numbers() -> Iterator[int]:
        yield 1

    @flow
    async def words() -> AsyncIterator[str]:
        yield "one"

    @flow
    def both() -> Generator[Item, None, str]:
        yield Item(name="x")
        return "not of the list"

    def bare() -> Any:
        yield 1

    assert numbers.result_schema == {"type": "array", "items": {"type": "integer"}}
    assert words.result_schema == {"type": "array", "items": {"type": "string"}}
    assert both.result_schema["items"] == {"$ref": "#/$defs/Item"}
    assert flow(bare).result_schema == {"type": "array", "items": {}}


def test_generator_methods_are_tasks_and_flows() -> None:
    """Bound to their objects like any other."""

    class Counter:
        def __init__(self, by: int) -> None:
            self.by = by

        @task
        def up(self, n: int) -> Iterator[int]:
            for number in range(n):
                yield number * self.by

        @flow
        def all(self, n: int) -> Iterator[int]:
            yield from self.up(n)

    journal = memory()
    outcome = Counter(2).all.run({"n": 3}, journal=journal, options=options(), origin=Origin.PERSON)
    assert outcome.value == [0, 2, 4]
    assert last_run(journal) == outcome.run_id
