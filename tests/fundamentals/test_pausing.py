"""Pausing a run for a person, and having it go on, under Prefect's names: `pause_flow_run` and its like, `RunInput`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from agentflow import ApprovalDenied, flow, request_input, task
from agentflow.errors import (
    DecisionRefusedError,
    DefinitionError,
    FlowPauseTimeout,
    MissingContextError,
    RunNotFoundError,
    RunStateError,
    WaitTimeoutError,
)
from agentflow.flow_runs import pause_flow_run, resume_flow_run, suspend_flow_run
from agentflow.flows import Flow
from agentflow.input import RunInput
from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from agentflow.model.waits import Assurance, Channel, Verdict
from agentflow.runtime import flow_run
from agentflow.shells import AGENT_VARIABLES, WORKER_VARIABLE
from tests.fundamentals.lives import (
    Clock,
    Death,
    always,
    answer,
    memory,
    open_wait,
    options,
    resume,
    rows,
    start,
)

COLOURS = ["sync", "async"]


class Order(RunInput):
    """What is ordered."""

    town: str
    amount: int = Field(default=1, ge=1)


class Plain(BaseModel):
    size: int = 3


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> MemoryJournal:
    """The journal that code outside of any flow finds, in the shell of a person."""
    found = memory()
    monkeypatch.setattr("agentflow.flow_runs.open_journal", always(found))
    for name in (WORKER_VARIABLE, *AGENT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    return found


def pausing(
    colour: str, pause: Callable[..., Any], *args: Any, after: Callable[[], object] = list, **options: Any
) -> Any:
    """A flow that pauses so, and returns what it was given."""

    @flow(name="order")
    def run() -> Any:
        found = pause(*args, **options)
        after()
        return found

    @flow(name="order")
    async def run_async() -> Any:
        found = await pause(*args, **options)
        after()
        return found

    return run if colour == "sync" else run_async


def paused(which: Flow[..., Any], journal: MemoryJournal) -> str:
    """Start a run that leaves memory to wait; its id."""
    outcome = start(which, journal=journal)
    assert outcome.state is StateType.PAUSED, outcome
    return outcome.run_id


@pytest.mark.parametrize("pause", [pause_flow_run, suspend_flow_run])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_paused_run_goes_on_when_a_person_says_so(journal: MemoryJournal, colour: str, pause: Any) -> None:
    """It leaves memory meanwhile; who let it go on is recorded, at the lowest assurance."""
    run = pausing(colour, pause)
    run_id = paused(run, journal)
    wait = open_wait(journal)
    assert (wait.question["message"], wait.due) == ("order is paused. Is it to go on?", wait.opened + 3600)
    resume_flow_run(run_id)
    assert resume(run, run_id, journal).value is None
    (decided,) = journal.list_waits(open_only=False)
    assert decided.decision is not None
    assert decided.decision.actor
    assert (decided.decision.channel, decided.decision.assurance) == (Channel.CODE, Assurance.NONE)
    assert [row.name for row in rows(journal, "completed")] == ["pause:order is paused"]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_person_may_say_no(journal: MemoryJournal, colour: str) -> None:
    """By declining, or by answering that it is not to go on."""
    for verdict, value in ((Verdict.DENIED, None), (Verdict.ANSWERED, False)):
        run = pausing(colour, pause_flow_run)
        run_id = paused(run, journal)
        answer(journal, verdict, value)
        assert isinstance(resume(run, run_id, journal).error, ApprovalDenied)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_pause_gives_what_the_person_was_asked_for(journal: MemoryJournal, colour: str) -> None:
    """A model with a question and other defaults; the answer is of the class that was declared, in every life."""
    lives: list[int] = []

    def die_once() -> None:
        lives.append(1)
        if len(lives) == 1:
            raise Death

    wanted = Order.with_initial_data(description="Where **to**?", town="Bern")
    run = pausing(
        colour, pause_flow_run, wait_for_input=wanted, timeout=None, poll_interval=1, after=die_once
    )
    run_id = paused(run, journal)
    wait = open_wait(journal)
    assert (wait.question["message"], wait.due) == ("Where **to**?", None)
    assert wait.schema["properties"]["town"]["default"] == "Bern"
    assert wait.schema["properties"]["amount"]["minimum"] == 1
    with pytest.raises(DecisionRefusedError, match="amount"):
        resume_flow_run(run_id, run_input={"amount": 0})
    resume_flow_run(run_id, run_input={"amount": 7})
    with pytest.raises(Death):
        resume(run, run_id, journal)
    found = run.resume(run_id, journal=journal, options=options(), take_over=True).value
    assert (type(found), found) == (Order, Order(town="Bern", amount=7))
    assert found.model_fields_set == {"amount"}


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        (str, "yes", "yes"), (int, {"value": 5}, 5), (bool, False, False), (Plain, None, Plain()),
        (Plain, Plain(size=4), Plain(size=4)), (dict[str, int], {"a": 1}, {"a": 1}),
    ],
)  # fmt: skip
def test_any_type_can_be_asked_for(journal: MemoryJournal, kind: Any, given: Any, wanted: Any) -> None:
    """A model, or a type; an input of a type may be given as Prefect gives it."""
    run = pausing("sync", pause_flow_run, kind)
    run_id = paused(run, journal)
    resume_flow_run(run_id, given)
    assert resume(run, run_id, journal).value == wanted


def test_a_model_has_only_its_own_fields_filled_in() -> None:
    """Refused where it is written; filled in twice, both count, and the question stays."""
    with pytest.raises(DefinitionError, match=r"no field 'city'; it has: town, amount"):
        Order.with_initial_data(city="Bern")
    twice: Any = Order.with_initial_data(description="?", town="Bern").with_initial_data(amount=5)
    assert (twice().as_declared(), twice.run_input_description) == (
        Order.model_construct(town="Bern", amount=5),
        "?",
    )
    assert Order(town="x").as_declared() == Order(town="x")


@pytest.mark.parametrize("colour", COLOURS)
def test_a_pause_that_nobody_ends_fails(colour: str) -> None:
    """With `FlowPauseTimeout`, once its time is over."""
    clock, kept = Clock(), memory()
    run = pausing(colour, pause_flow_run, timeout=60)
    run_id = start(run, journal=kept, using=options(clock)).run_id
    clock.now += 61
    outcome = resume(run, run_id, kept, options(clock))
    assert (outcome.state, FlowPauseTimeout) == (StateType.FAILED, WaitTimeoutError)
    assert isinstance(outcome.error, FlowPauseTimeout)


@pytest.mark.parametrize("key", ["sign", None])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_pause_with_a_key_is_made_once(journal: MemoryJournal, colour: str, key: str | None) -> None:
    """Asked again in the same run, or by a retry that asks anew for everything, it gives the same answer at once."""

    def fail_once() -> None:
        if flow_run.run_count == 1:
            raise ValueError

    @flow(retries=1)
    def run() -> list[int]:
        found = [pause_flow_run(int, key=key), pause_flow_run(int, key=key)]
        fail_once()
        return found

    @flow(retries=1)
    async def run_async() -> list[int]:
        found = [await pause_flow_run(int, key=key), await pause_flow_run(int, key=key)]
        fail_once()
        return found

    made, answers = (run if colour == "sync" else run_async), 0
    run_id = paused(made, journal)
    outcome = None
    while outcome is None or outcome.state is StateType.PAUSED:
        answers += 1
        resume_flow_run(run_id, answers)
        outcome = resume(made, run_id, journal)
    assert (outcome.value, answers) == (([1, 1], 1) if key else ([3, 4], 4))


def test_a_pause_in_a_task_pauses_the_run(journal: MemoryJournal) -> None:
    """And goes on in the task."""

    @task
    def ask() -> int:
        return pause_flow_run(int) + 1

    @flow
    def run() -> list[int]:
        return [ask(), 5]

    run_id = paused(run, journal)
    resume_flow_run(run_id, 3)
    assert resume(run, run_id, journal).value == [4, 5]


def test_only_a_run_that_asks_for_one_thing_is_resumed_so(journal: MemoryJournal) -> None:
    """Anything else is for `agentflow approvals`, or over; a question of `request_input` is a question."""

    @flow
    async def run() -> list[str]:
        return list(await asyncio.gather(request_input("a?"), request_input("b?")))

    @flow
    def one() -> str:
        return request_input("c?").result()

    with pytest.raises(RunNotFoundError):
        resume_flow_run("nobody")
    run_id = paused(run, journal)
    with pytest.raises(RunStateError, match="2 things at once"):
        resume_flow_run(run_id, "x")
    other = paused(one, journal)
    assert asyncio.run(_resumed(other, "yes")) is None
    assert resume(one, other, journal).value == "yes"
    with pytest.raises(RunStateError, match="does not ask for anything"):
        resume_flow_run(other)


async def _resumed(run_id: str, given: Any) -> Any:
    return await resume_flow_run(run_id, given)


def test_no_flow_worker_or_agent_answers_for_a_person(
    journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused there, and the run waits on."""
    run_id = paused(pausing("sync", pause_flow_run), journal)

    @flow
    def cheats() -> None:
        resume_flow_run(run_id)

    assert isinstance(start(cheats).error, DecisionRefusedError)
    told: list[str] = []

    def hook(subject: Any, run: Any, state: Any) -> None:
        try:
            resume_flow_run(run_id)
        except DecisionRefusedError as error:
            told.append(str(error))

    start(flow(on_completion=[hook])(lambda: None))
    assert "waits for a person" in told[0]
    for name in (WORKER_VARIABLE, AGENT_VARIABLES[0]):
        with monkeypatch.context() as patched:
            patched.setenv(name, "1")
            with pytest.raises(DecisionRefusedError, match="waits for a person"):
                resume_flow_run(run_id)
    assert open_wait(journal).is_open


def test_a_pause_outside_of_a_flow_has_nothing_to_pause() -> None:
    """It is an error, as for every wait."""
    with pytest.raises(MissingContextError):
        pause_flow_run()
