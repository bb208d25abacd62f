"""What code can ask about the run that it is in, under Prefect's names: `agentflow.runtime`."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from agentflow import flow, get_run_context, tags, task
from agentflow.deployments import Asked, ask_for_run
from agentflow.errors import MissingContextError
from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Origin
from agentflow.runtime import deployment, flow_run, task_run
from tests.fundamentals.lives import Death, always, die, memory, options, resume, start, value_of

COLOURS = ["sync", "async"]
FLOW = (
    "id", "name", "flow_name", "flow_version", "parameters", "tags", "run_count", "parent_flow_run_id",
    "root_flow_run_id", "ui_url",
)  # fmt: skip
TASK = ("id", "name", "task_name", "parameters", "tags", "run_count")
DEPLOYMENT = ("id", "name", "version", "flow_run_id", "parameters")


def told(of: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """What is told of it."""
    return {name: getattr(of, name) for name in names}


def test_outside_of_a_flow_there_is_nothing_to_tell() -> None:
    """None, or empty; what a task says there, too, as it is the plain function."""

    @task
    def look() -> list[dict[str, Any]]:
        return [told(flow_run, FLOW), told(task_run, TASK), told(deployment, DEPLOYMENT)]

    nothing: dict[str, Any] = {"parameters": {}, "tags": [], "run_count": 0}
    assert look() == [{name: nothing.get(name) for name in names} for names in (FLOW, TASK, DEPLOYMENT)]
    assert abs(flow_run.scheduled_start_time - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=60)
    with pytest.raises(MissingContextError):
        get_run_context()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_run_and_its_tasks_tell_of_themselves(colour: str) -> None:
    """The parameters of a plain task, too, its defaults among them; each attempt is counted."""

    def look(x: int, word: str = "w", **more: int) -> list[dict[str, Any]]:
        if task_run.run_count == 1:
            raise ConnectionError
        return [told(flow_run, FLOW), told(task_run, TASK)]

    def plain(*numbers: int) -> Mapping[str, Any]:
        return task_run.parameters

    async def look_async(x: int, word: str = "w", **more: int) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        return look(x, word, **more)

    async def plain_async(*numbers: int) -> Mapping[str, Any]:
        return task_run.parameters

    named = task(name="look", task_run_name="look at {x}", tags=["blue"], retries=1)

    @flow(name="run", flow_run_name="run {n}", version="7", tags=["demo"])
    def run(n: int) -> Any:
        with tags("red"):
            seen = named(look)(n, more=5)
        return [*seen, told(task_run, TASK)["id"], task(plain)(1, 2), task(plain).submit(3).result()]

    @flow(name="run", flow_run_name="run {n}", version="7", tags=["demo"])
    async def run_async(n: int) -> Any:
        with tags("red"):
            seen = await named(look_async)(n, more=5)
        return [*seen, task_run.id, await task(plain_async)(1, 2), await task(plain_async).submit(3)]

    journal = memory()
    outcome = start(run if colour == "sync" else run_async, 3, journal=journal)
    of_flow, of_task, in_flow, *of_plain = outcome.value
    assert of_flow == {
        "id": outcome.run_id, "name": "run 3", "flow_name": "run", "flow_version": "7", "parameters": {"n": 3},
        "tags": ["demo"], "run_count": 1, "parent_flow_run_id": None, "root_flow_run_id": outcome.run_id,
        "ui_url": None,
    }  # fmt: skip
    assert len(of_task.pop("id")) == 32
    assert of_task == {
        "name": "look at 3", "task_name": "look", "parameters": {"x": 3, "word": "w", "more": 5},
        "tags": ["blue", "demo", "red"], "run_count": 2,
    }  # fmt: skip
    assert (in_flow, of_plain) == (None, [{"numbers": (1, 2)}, {"numbers": (3,)}])


@pytest.mark.parametrize("colour", COLOURS)
def test_a_sub_flow_tells_of_its_own_call_and_of_whoever_called_it(colour: str) -> None:
    """The ids are those that its hooks see, and the same in a later life."""
    seen: list[str] = []
    lives: list[list[Any]] = []

    def look() -> list[Any]:
        return [flow_run.id, flow_run.parent_flow_run_id, flow_run.root_flow_run_id, flow_run.parameters]

    def keep(found: list[Any]) -> list[Any]:
        lives.append(found)
        if len(lives) == 1:
            raise Death
        return found

    @flow(name="innermost")
    def innermost(x: int) -> list[Any]:
        return [look(), task(look)()]

    @flow(name="inner", on_running=[lambda _, run, __: seen.append(run.id)])
    def inner(x: int) -> list[Any]:
        return [look(), *innermost(x + 1)]

    @flow(name="inner", on_running=[lambda _, run, __: seen.append(run.id)])
    async def inner_async(x: int) -> list[Any]:
        return [look(), *innermost(x + 1)]

    @flow(name="outer")
    def run() -> list[Any]:
        return keep(inner(1))

    @flow(name="outer")
    async def run_async() -> list[Any]:
        return keep(await inner_async(1))

    journal, made = memory(), run if colour == "sync" else run_async
    run_id = die(made, journal=journal)
    assert resume(made, run_id, journal).value == lives[0]
    (own, parent, root, parameters), deeper, same = lives[0]
    assert (own, parent, root, parameters) == (seen[0], run_id, run_id, {"x": 1})
    assert deeper[1:] == [own, run_id, {"x": 2}]
    assert deeper == same


def test_names_are_made_of_what_they_name() -> None:
    """As in Prefect's manual: the name, and the parameters, of the call that is to be named."""

    def name_flow() -> str:
        return f"{flow_run.flow_name} with {flow_run.parameters['n']}, {flow_run.id}"

    def name_task() -> str:
        return f"{flow_run.flow_name} {task_run.task_name} with {task_run.parameters['x']} {task_run.id}"

    @task(task_run_name=name_task)
    def look(x: int) -> str | None:
        return task_run.name

    @flow(flow_run_name=name_flow)
    def inner(n: int) -> str | None:
        return flow_run.name

    @flow(name="run", flow_run_name=name_flow)
    def run(n: int) -> list[str | None]:
        return [flow_run.name, look(5), inner.with_options(name="inner")(6), task_run.name]

    assert value_of(run, 4) == ["run with 4, None", "run look with 5 None", "inner with 6, None", None]


def test_a_context_has_the_runs_as_hooks_see_them() -> None:
    """`get_run_context().flow_run` and `task_run`; the latter is None in a flow's own code, a sub-flow's included."""

    @flow
    def inner() -> Any:
        return get_run_context().task_run

    @task
    def look(x: int) -> list[Any]:
        here = get_run_context()
        assert here.task_run is not None
        return [here.flow_run.id, here.task_run.flow_run_id, here.task_run.parameters, inner()]

    @flow
    def run() -> list[Any]:
        return [*look(2), get_run_context().task_run]

    outcome = start(run)
    assert outcome.value == [outcome.run_id, outcome.run_id, {"x": 2}, None, None]


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> MemoryJournal:
    """The journal that code outside of any flow finds."""
    found = memory()
    for room in ("deploying", "deployments"):
        monkeypatch.setattr(f"agentflow.{room}.open_journal", always(found))
    return found


def test_a_run_of_a_deployment_tells_of_it_and_when_it_was_asked_for(journal: MemoryJournal) -> None:
    """By the name of the deployment; its parameters are those that its runs begin with."""

    @flow(name="report", version="7")
    def report(day: str, size: int = 1) -> list[Any]:
        return [told(deployment, DEPLOYMENT), flow_run.scheduled_start_time.timestamp()]

    report.to_deployment("nightly", parameters={"size": 5}).apply()
    asked = ask_for_run(journal, "report/nightly", Asked({"day": "monday"}, Origin.PERSON))
    outcome = resume(report, asked.id, journal)
    assert outcome.value == [
        {
            "id": "report/nightly",
            "name": "nightly",
            "version": "7",
            "flow_run_id": asked.id,
            "parameters": {"size": 5},
        },
        pytest.approx(asked.created),
    ]


@pytest.mark.parametrize("server", ["", "https://flows.example/"])
def test_a_run_has_a_page_where_its_journal_is_a_servers(server: str) -> None:
    """`ui_url` is its address."""

    @flow
    def run() -> str | None:
        return flow_run.ui_url

    outcome = start(run, using=options(api_url=server))
    assert outcome.value == (f"https://flows.example/runs/{outcome.run_id}" if server else None)


def test_items_of_a_generator_and_code_with_a_timeout_know_their_task() -> None:
    """In another thread, too, and after the consumer had an item."""

    @task(timeout_seconds=30)
    def timed(x: int) -> Any:
        return [task_run.task_name, task_run.parameters]

    @task
    def items(count: int) -> Iterator[Any]:
        for _ in range(count):
            yield task_run.parameters

    @flow
    def run() -> list[Any]:
        return [timed(1), *items(2)]

    name, parameters = value_of(run)[0]
    assert name.endswith("timed")
    assert [parameters, *value_of(run)[1:]] == [{"x": 1}, {"count": 2}, {"count": 2}]
