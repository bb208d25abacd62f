"""Deployments: a flow under a name; anybody asks for runs of it, whoever serves the flow executes them."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, cast

import orjson
import pytest
from pydantic import BaseModel, Field, SecretStr

from agentflow import Flow, flow, serve, tags, task
from agentflow.concurrency import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.deploying import RunnerDeployment
from agentflow.deployments import Asked, ask_for_run, flow_run_of, freeze, remove_deployment, run_deployment
from agentflow.errors import (
    DefinitionError,
    DeploymentNotFoundError,
    DeploymentPausedError,
    NotAwaitedError,
    ParameterError,
    UnreadableResult,
    UsageError,
)
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import FlowRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.payloads.arguments import decode_arguments
from agentflow.payloads.codec import Codec
from agentflow.run_context import get_run_context
from agentflow.shells import WORKER_VARIABLE
from agentflow.views import run_view
from agentflow.workers.inline import InlineWorker
from tests.fundamentals.lives import (
    KEY,
    Death,
    always,
    last_run,
    memory,
    open_wait,
    options,
    resume,
    start,
)


class Order(BaseModel):
    """Knows when it came, if nobody says so."""

    amount: Decimal
    at: dt.datetime = Field(default_factory=lambda: dt.datetime.now(dt.UTC))


@flow(version="7", tags={"shop"})
def total(a: int, b: int = 2) -> int:
    """Adds."""
    return a + b


@flow
async def total_async(a: int, b: int = 2) -> int:
    await asyncio.sleep(0)
    return a + b


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> MemoryJournal:
    """The journal that code outside of any flow finds."""
    found = memory()
    for room in ("deploying", "deployments", "workers.background", "background"):
        monkeypatch.setattr(f"agentflow.{room}.open_journal", always(found))
    monkeypatch.setenv("AGENTFLOW_POLL_INTERVAL", "0.01")
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    return found


@contextmanager
def serving(
    journal: Journal, *flows: Flow[..., Any], gate: bool = False
) -> Generator[InlineWorker, None, None]:
    """A process that serves these flows."""
    with InlineWorker(journal, {one.name: one for one in flows}, options=options(gate=gate)) as worker:
        yield worker


def runs_of(journal: Journal, deployment: str) -> list[Run]:
    return journal.list_runs(RunFilter(deployment=deployment))


def asked(journal: Journal, name: str, origin: Origin = Origin.PERSON, **parameters: Any) -> Run:
    """A run that somebody asks for."""
    return ask_for_run(journal, name, Asked(parameters, origin))


# -- defining one
def test_a_deployment_has_what_its_flow_has_unless_it_says_otherwise(journal: MemoryJournal) -> None:
    """Description, version and tags are the flow's at first; its name is FLOW/NAME."""
    plain = total.to_deployment("plain").apply()
    assert (plain.name, plain.flow, plain.description, plain.version) == (
        "total/plain",
        "total",
        "Adds.",
        "7",
    )
    assert (plain.tags, plain.paused, plain.concurrency_limit) == (("shop",), False, None)
    assert plain.entrypoint.endswith("test_deployments.py:total")
    other = total.to_deployment(
        "other",
        tags=["x"],
        description="d",
        version="8",
        parameters={"b": "3"},
        concurrency_limit=2,
        paused=True,
    )
    assert (other.full_name, other.flow_name) == ("total/other", "total")
    saved = other.apply()
    assert (saved.tags, saved.description, saved.version, saved.paused) == (("shop", "x"), "d", "8", True)
    assert saved.concurrency_limit == ConcurrencyLimitConfig(2)
    assert orjson.loads(saved.parameters) == {"b": "3"}
    assert orjson.loads(saved.schema) == total.parameters_schema


def test_a_frozen_parameter_is_that_of_every_run(journal: MemoryJournal) -> None:
    """Whoever asks for a run with another one is refused; the form of the page offers that one alone."""
    saved = total.to_deployment("frozen", parameters={"b": freeze(5)}).apply()
    assert orjson.loads(saved.schema)["properties"]["b"]["const"] == 5
    for wrong in (6, Decimal(6)):
        with pytest.raises(ParameterError, match="b is frozen by the deployment: 5"):
            asked(journal, "total/frozen", a=1, b=wrong)
    for run in (asked(journal, "total/frozen", a=1), asked(journal, "total/frozen", a=1, b=5)):
        assert resume(total, run.id, journal).value == 6
    with pytest.raises(ParameterError, match="no parameter 'c'"):
        total.to_deployment("frozen", parameters={"c": freeze(5)})
    assert total.fn(1, freeze(2).unwrap()) == 3


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": ""}, "no name for a deployment"),
        ({"name": "a/b"}, "no name for a deployment"),
        ({"name": " a"}, "no name for a deployment"),
        ({"name": "a\nb"}, "no name for a deployment"),
        ({"name": "a" * 200}, "at most"),
        ({"concurrency_limit": 0}, "at least 1"),
        ({"concurrency_limit": ConcurrencyLimitConfig(-1)}, "at least 1"),
        ({"concurrency_limit": ConcurrencyLimitConfig(1, cast("Any", "WHATEVER"))}, "ENQUEUE or CANCEL_NEW"),
        ({"tags": "abc"}, "give a list"),
        ({"parameters": {"c": 1}}, "no parameter 'c'"),
        ({"parameters": {"a": "x"}}, "valid integer"),
        ({"cron": "0 3 * * *"}, "has no option cron; a run of a deployment begins when somebody asks for it"),
        ({"work_pool_name": "k8s"}, "executed by whoever serves the flow"),
        ({"enforce_parameter_schema": False}, "always checked"),
        ({"colour": "red"}, "has no option colour; there are concurrency_limit, description"),
    ],
)
def test_a_definition_that_cannot_work_is_refused_with_the_reason(
    given: dict[str, Any], problem: str
) -> None:
    """Bad names, limits and parameters, and options of Prefect's that there are not."""
    options_given: dict[str, Any] = {"name": "nightly", **given}
    with pytest.raises((DefinitionError, ParameterError), match=problem):
        total.to_deployment(**options_given)


def test_options_that_are_none_are_not_set() -> None:
    """So a call that hands on what it was given works with options that there are not."""
    assert total.to_deployment("nightly", cron=None, paused=None).paused is None


def test_parameters_are_kept_as_json_or_refused(journal: MemoryJournal) -> None:
    """What JSON would turn into something else is refused: the run would not get what was meant."""

    @flow
    def read(day: dt.date, anything: Any = None, secret: SecretStr | None = None) -> None: ...

    saved = read.to_deployment("x", parameters={"day": dt.date(2026, 1, 2), "anything": [1, None]}).apply()
    assert orjson.loads(saved.parameters) == {"day": "2026-01-02", "anything": [1, None]}
    for name, value in (("anything", dt.date(2026, 1, 2)), ("secret", SecretStr("s"))):
        with pytest.raises(DefinitionError, match=f"{name} would come back from JSON as something else"):
            read.to_deployment("x", parameters={name: value})
    with pytest.raises(DefinitionError, match="cannot be kept as JSON"):
        read.to_deployment("x", parameters={"anything": object()})


def test_the_strategy_may_be_a_text() -> None:
    """As Prefect takes it."""
    config = ConcurrencyLimitConfig(1, cast("Any", "CANCEL_NEW"))
    made = total.to_deployment("x", concurrency_limit=config).concurrency_limit
    assert made is not None
    assert made.collision_strategy is ConcurrencyLimitStrategy.CANCEL_NEW


# -- asking for runs
@pytest.mark.parametrize("served", [total, total_async], ids=["sync", "async"])
def test_a_run_is_executed_by_whoever_serves_the_flow(served: Any, journal: MemoryJournal) -> None:
    """Whoever asks needs nothing of its code; the arguments are the deployment's and theirs."""
    name = served.to_deployment("nightly", parameters={"b": 40}, tags=["x"], version="3").apply().name
    with serving(journal, served), tags("y"):
        run = run_deployment(name, {"a": 1}, flow_run_name="monday", tags=["z"])
    assert isinstance(run, FlowRun)
    assert run.state is not None
    assert (run.state.is_completed(), run.state.result()) == (True, 41)
    assert (run.name, run.flow_name, run.deployment, run.parameters) == (
        "monday",
        served.name,
        name,
        {"a": 1, "b": 40},
    )
    assert {"x", "y", "z"} <= set(run.tags)
    stored = journal.get_run(run.id)
    assert stored is not None
    assert (stored.deployment, stored.deployment_version, stored.parent) == (name, "3", "")
    assert run_view(stored)["deployment"] == name


async def test_on_a_loop_it_is_awaited(journal: MemoryJournal) -> None:
    """The same call gives a coroutine there."""
    name = total.to_deployment("nightly").apply().name
    with serving(journal, total):
        run = await run_deployment(name, {"a": 1})
    assert run.state.result() == 3


def test_nobody_has_to_wait(journal: MemoryJournal) -> None:
    """With a timeout of 0 the run is given at once; with a longer one as it is then."""
    name = total.to_deployment("nightly").apply().name
    for timeout in (0, 0.02):
        run = run_deployment(name, {"a": 1}, timeout=timeout)
        assert run.state.is_pending()
    assert len(runs_of(journal, name)) == 2


def test_a_run_that_fails_is_given_as_well(journal: MemoryJournal) -> None:
    """Whoever asks looks at its state, or has its exception raised by `result()`."""

    @flow
    def broken() -> None:
        raise KeyError("gone")

    name = broken.to_deployment("x").apply().name
    with serving(journal, broken):
        run = run_deployment(name)
    assert run.state.is_failed()
    with pytest.raises(KeyError, match="gone"):
        run.state.result()


def test_one_key_makes_one_run(journal: MemoryJournal) -> None:
    """A request that is sent twice means the same run; another deployment has keys of its own."""
    name, other = (total.to_deployment(one).apply().name for one in ("a", "b"))
    first = run_deployment(name, {"a": 1}, idempotency_key="k", timeout=0)
    journal.pause_deployment(name, paused=True)
    assert run_deployment(name, {"a": 2}, idempotency_key="k", timeout=0).id == first.id
    assert run_deployment(other, {"a": 1}, idempotency_key="k", timeout=0).id != first.id
    assert len(runs_of(journal, name)) == 1


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({}, "it needs the parameter 'a'"),
        ({"a": "x"}, "a: 'x' is not of type 'integer'"),
        ({"a": 1, "c": 2}, "no parameter 'c'; there are: a, b"),
        ({"a": [1]}, "a: "),
    ],
)
def test_arguments_that_do_not_fit_make_no_run(
    parameters: dict[str, Any], problem: str, journal: MemoryJournal
) -> None:
    """They are checked against the schema of the flow, which the deployment has."""
    name = total.to_deployment("x").apply().name
    with pytest.raises(ParameterError, match=problem):
        run_deployment(name, parameters)
    assert journal.list_runs(RunFilter()) == []


def test_what_cannot_be_asked_for_is_refused(journal: MemoryJournal) -> None:
    """No such deployment, one that is paused, an option that there is not, a timeout that makes no sense."""
    name = total.to_deployment("x", paused=True).apply().name
    with pytest.raises(DeploymentPausedError, match="takes no new runs"):
        run_deployment(name, {"a": 1})
    with pytest.raises(DeploymentNotFoundError, match="total/none"):
        run_deployment("total/none")
    with pytest.raises(DefinitionError, match="no option job_variables; its runs are executed by whoever"):
        run_deployment(name, {"a": 1}, job_variables={})
    with pytest.raises(UsageError, match="negative"):
        run_deployment(name, {"a": 1}, timeout=-1)
    with pytest.raises(ParameterError, match=r"generator"):
        any_of(journal, value=(item for item in ()))
    assert journal.list_runs(RunFilter()) == []


def any_of(journal: Journal, **parameters: Any) -> Run:
    @flow
    def anything(value: Any) -> Any:
        return value

    return asked(journal, anything.to_deployment("x").apply(journal).name, **parameters)


def test_deleting_a_deployment_leaves_its_runs(journal: MemoryJournal) -> None:
    """Those that have not begun go on, too; its limit goes with it."""
    name = total.to_deployment("x", concurrency_limit=1).apply().name
    run = asked(journal, name, a=1)
    assert [limit.name for limit in journal.list_limits()] == [f"deployment:{name}"]
    assert remove_deployment(journal, name)
    assert journal.list_limits() == []
    with serving(journal, total) as worker:
        assert worker.await_run(run.id, 10).state is StateType.COMPLETED
    assert not remove_deployment(journal, name)


def test_a_new_definition_counts_from_the_next_run(journal: MemoryJournal) -> None:
    """Runs keep the arguments, and the version, that they were asked for with."""
    name = total.to_deployment("x", parameters={"b": 10}, version="1").apply().name
    first = asked(journal, name, a=1)
    total.to_deployment("x", parameters={"b": 20}, version="2").apply()
    second = asked(journal, name, a=1)
    with serving(journal, total) as worker:
        ended = [worker.await_run(run.id, 10) for run in (first, second)]
    assert [(run.deployment_version, run.result) for run in ended] == [("1", b"11"), ("2", b"21")]


def test_an_unreadable_result_says_so_when_it_is_asked_for(journal: MemoryJournal) -> None:
    """Whoever has not loaded the class can still see that the run has completed."""
    name = total.to_deployment("x").apply().name
    run = asked(journal, name, a=1)
    claimed = journal.claim_run(run.id)
    value = orjson.dumps({"$": "dataclass", "t": "nowhere:Thing", "v": {}})
    journal.set_state(claimed.number, claimed.epoch, StateType.COMPLETED, result=value, release=True)
    found = run_deployment(name, {"a": 1}, idempotency_key="other", timeout=0)
    assert found.state.is_pending()
    stored = journal.get_run(run.id)
    assert stored is not None
    state = flow_run_of(journal, stored).state
    assert state is not None
    assert state.is_completed()
    with pytest.raises(UnreadableResult, match=run.id):
        state.result()


# -- the arguments in the run
def test_arguments_are_read_once_and_recorded(journal: MemoryJournal) -> None:
    """A default that is made anew each time is the same one in every life of the run."""
    seen: list[dt.datetime] = []

    @task
    def note(at: dt.datetime) -> dt.datetime:
        seen.append(at)
        return at

    @flow(flow_run_name="order of {order.amount}")
    def ship(order: Order, die_now: bool = True) -> dt.datetime:
        assert get_run_context().parameters["order"] == order
        at = note(order.at)
        if len(seen) == 1 and die_now and not journal.lives(1)[1:]:
            raise Death
        return at

    name = ship.to_deployment("x").apply().name
    run = asked(journal, name, order={"amount": "1.5"})
    assert run.name != "order of 1.5"
    active, arguments = ship.claim(run.id, journal=journal, options=options())
    assert arguments["order"].amount == Decimal("1.5")
    journal.release_run(active.run)
    outcome = resume(ship, run.id, journal)
    assert outcome.value == seen[0] == arguments["order"].at
    assert len(seen) == 1
    stored = journal.get_run(run.id)
    assert stored is not None
    assert stored.name == "order of 1.5"
    assert set(decode_arguments(Codec(KEY), stored.parameters)) == {"order", "die_now"}


def test_arguments_that_only_the_flow_can_refuse_make_the_run_fail(journal: MemoryJournal) -> None:
    """With the flow's own words, and its hooks; its body never begins."""
    told: list[str] = []

    @flow(on_failure=lambda flow, run, state: told.append(state.message), retries=3)
    def ship(amount: Decimal) -> None:
        raise AssertionError

    name = ship.to_deployment("x").apply().name
    run = asked(journal, name, amount="a lot")
    with serving(journal, ship) as worker:
        ended = worker.await_run(run.id, 10)
    assert ended.state is StateType.FAILED
    assert "amount" in ended.message
    assert len(told) == 1


def test_a_run_that_was_never_begun_can_be_shown_and_cancelled(journal: MemoryJournal) -> None:
    """Its arguments are shown as they were given."""
    run = asked(journal, total.to_deployment("x").apply().name, a=1)
    assert run_view(run)["parameters"] == {"a": 1}
    assert journal.request_cancel(run.id, "no").state is StateType.CANCELLED


# -- inside of a flow
@flow
def ask_for_total(a: int) -> int:
    run = run_deployment("total/nightly", {"a": a})
    return run.state.result()


@flow
async def ask_for_total_async(a: int) -> int:
    runs = await asyncio.gather(*(run_deployment("total/nightly", {"a": a}) for _ in range(2)))
    assert runs[0].id != runs[1].id
    return runs[0].state.result()


@pytest.mark.parametrize("asking", [ask_for_total, ask_for_total_async], ids=["sync", "async"])
def test_inside_of_a_flow_it_is_a_step(asking: Any, journal: MemoryJournal) -> None:
    """The run is a child of the flow's, and is cancelled with it."""
    total.to_deployment("nightly").apply()
    with serving(journal, total):
        outcome = start(asking, 5, journal=journal)
    assert outcome.value == 7
    parent = journal.list_runs(RunFilter(flow=asking.name))[0]
    assert {row.name for row in journal.steps(parent.number)} == {"total/nightly"}
    children = runs_of(journal, "total/nightly")
    assert {(run.parent, run.origins[0]) for run in children} == {(parent.id, Origin.PARENT)}


def test_a_replay_finds_the_run_that_it_has_asked_for(journal: MemoryJournal) -> None:
    """Killed after the run was made and before it was told of its end, or after that: there is one run."""
    died: list[str] = []

    @flow
    def asking(where: str) -> int:
        if where == "before" and not died:
            died.append(where)
            run_deployment("total/nightly", {"a": 1}, timeout=0)
            raise Death
        run = run_deployment("total/nightly", {"a": 1}, timeout=0 if where == "before" else None)
        if where == "after" and not died:
            died.append(where)
            raise Death
        return 1 if run.state.is_pending() else run.state.result()

    total.to_deployment("nightly").apply()
    assert resume(asking, dead(asking, "before", journal), journal).value == 1
    assert len(runs_of(journal, "total/nightly")) == 1
    died.clear()
    with serving(journal, total):
        assert resume(asking, dead(asking, "after", journal), journal).value == 3
    assert len(runs_of(journal, "total/nightly")) == 2


def dead(asking: Flow[..., Any], where: str, journal: Journal) -> str:
    """A run of `asking` that has died."""
    with pytest.raises(Death):
        start(asking, where, journal=journal)
    return journal.list_runs(RunFilter(flow=asking.name))[0].id


def test_a_step_that_was_cut_off_finds_the_run_that_it_has_made(
    journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's id is that of the step, so it is not made twice, whenever the process dies."""
    total.to_deployment("nightly").apply()

    def cut_off(*_: Any) -> Any:
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr("agentflow.deployments.flow_run_of", cut_off)
        with serving(journal, total), pytest.raises(Death):
            start(ask_for_total, 5, journal=journal)
    parent = journal.list_runs(RunFilter(flow="ask_for_total"))[0]
    (child,) = runs_of(journal, "total/nightly")
    assert child.parent == parent.id
    with serving(journal, total):
        assert resume(ask_for_total, parent.id, journal).value == 7
    assert [run.id for run in runs_of(journal, "total/nightly")] == [child.id]


def test_it_may_stand_on_its_own(journal: MemoryJournal) -> None:
    """`as_subflow=False`: it is not cancelled with the flow's run."""

    @flow
    def asking() -> str:
        return run_deployment("total/nightly", {"a": 1}, as_subflow=False, timeout=0).id

    total.to_deployment("nightly").apply()
    child = journal.get_run(start(asking, journal=journal).value)
    assert child is not None
    assert child.parent == ""


def test_one_that_is_not_awaited_is_a_mistake(journal: MemoryJournal) -> None:
    """In an async flow it is a coroutine, and one that nobody awaits fails the run."""
    total.to_deployment("nightly").apply()

    @flow
    async def asking() -> None:
        run_deployment("total/nightly", {"a": 1})

    assert isinstance(start(asking, journal=journal).error, NotAwaitedError)
    assert runs_of(journal, "total/nightly") == []


# -- who is behind a run
@task(side_effect=True)
def pay(a: int) -> int:
    return a


@flow
def paying(a: int = 1) -> int:
    return pay(a)


@pytest.mark.parametrize(
    ("definer", "asker", "signs"),
    [
        (Origin.PERSON, Origin.PERSON, False),
        (Origin.PERSON, Origin.MODEL, True),
        (Origin.MODEL, Origin.PERSON, True),
        (Origin.UNKNOWN, Origin.PERSON, True),
    ],
)
def test_who_defined_it_is_behind_each_of_its_runs(
    definer: Origin, asker: Origin, signs: bool, journal: MemoryJournal
) -> None:
    """A side effect is signed by a person if a model has asked for the run, or has defined what is run."""
    name = paying.to_deployment("x").apply(origins=(definer,)).name
    run = asked(journal, name, asker)
    assert run.origins[0] is asker
    with serving(journal, paying, gate=True) as worker:
        ended = worker.await_run(run.id, 10)
        if signs:
            assert ended.state is StateType.PAUSED
            assert open_wait(journal).name == "pay"
        else:
            assert ended.state is StateType.COMPLETED


def test_a_deployment_that_a_flow_defines_has_the_origins_of_its_run(journal: MemoryJournal) -> None:
    """What a model has defined does not become a person's by being asked for; a person may define it anew."""

    @flow
    def defining() -> None:
        paying.to_deployment("x").apply()

    start(defining, journal=journal, origin=Origin.MODEL)
    found = journal.get_deployment("paying/x")
    assert found is not None
    assert found.origins == (Origin.MODEL,)
    assert set(asked(journal, "paying/x").origins) == {Origin.PERSON, Origin.MODEL}
    assert paying.to_deployment("x").apply().origins == (Origin.PERSON,)
    assert asked(journal, "paying/x").origins == (Origin.PERSON,)


def test_what_a_run_asks_for_has_its_origins(journal: MemoryJournal) -> None:
    """A model that starts a flow is behind the runs that the flow asks for."""
    total.to_deployment("nightly").apply()

    @flow
    def asking() -> str:
        return run_deployment("total/nightly", {"a": 1}, timeout=0).id

    child = journal.get_run(start(asking, journal=journal, origin=Origin.MODEL).value)
    assert child is not None
    assert set(child.origins) == {Origin.PARENT, Origin.MODEL}


# -- serving
async def test_serve_takes_deployments_and_tasks(journal: MemoryJournal) -> None:
    """It stores the deployments, and executes runs of both; whoever starts it counts as who defines them."""

    @task
    def double(x: int) -> int:
        return 2 * x

    server = asyncio.create_task(
        serve(
            total.to_deployment("a"),
            total_async.to_deployment("b"),
            double,
            journal=journal,
            options=options(),
        )
    )
    await asyncio.sleep(0)
    first = await run_deployment("total/a", {"a": 1})
    second = await run_deployment("total_async/b", {"a": 2})
    assert (first.state.result(), second.state.result(), await double.delay(4)) == (3, 4, 8)
    found = journal.get_deployment("total/a")
    assert found is not None
    assert found.origins == (Origin.PERSON,)
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server


async def test_a_flow_can_serve_itself(journal: MemoryJournal) -> None:
    """`flow.serve()` is `serve` of one deployment, which is called like the flow."""
    server = asyncio.create_task(total.serve(parameters={"b": 5}, limit=1))
    await asyncio.sleep(0)
    assert (await run_deployment("total/total", {"a": 1})).state.result() == 6
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server


def test_serve_wants_names_that_are_clear() -> None:
    """Two deployments of one name, two flows of one name, and options that there are not."""

    @flow(name="total")
    def other() -> None: ...

    with pytest.raises(DefinitionError, match="two deployments are named total/a"):
        serve(total.to_deployment("a"), total.to_deployment("a"))
    with pytest.raises(DefinitionError, match="two flows are named 'total'"):
        serve(total.to_deployment("a"), other.to_deployment("b"))
    with pytest.raises(DefinitionError, match="no option pause_on_shutdown"):
        serve(total.to_deployment("a"), pause_on_shutdown=False)
    with pytest.raises(DefinitionError, match=r"total.serve\(\) has no option webserver"):
        total.serve(webserver=True)
    assert not hasattr(total, "deploy")
    assert isinstance(total.to_deployment("a"), RunnerDeployment)


def test_a_fork_is_a_run_of_the_same_deployment(journal: MemoryJournal) -> None:
    """Its limit counts for it as well."""

    @task
    def add(a: int) -> int:
        return a + 1

    @flow
    def adding(a: int) -> int:
        return add(a)

    name = adding.to_deployment("x").apply().name
    run = asked(journal, name, a=1)
    with serving(journal, adding) as worker:
        worker.await_run(run.id, 10)
    forked = adding.fork(run.id, from_step="add", parameters={"a": 5}, journal=journal, options=options())
    assert forked.value == 6
    assert last_run(journal) == forked.run_id
    assert [found.id for found in runs_of(journal, name)] == [forked.run_id, run.id]
