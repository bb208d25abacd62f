"""R5: who asked for an effect decides whether a person signs it; what a model asks for is signed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from agentflow import TASK_SOURCE, Always, ByOrigin, Never, When, flow, task, wait_for_event
from agentflow.engine.policy import StepPolicy
from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.model.steps import StepKind
from agentflow.model.waits import Verdict, WaitKind
from agentflow.tasks import Task
from tests.fundamentals.lives import Death, answer, die, memory, open_wait, options, resume, start

PAID: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    PAID.clear()


async def request() -> str:
    """What a model request is to the engine."""
    await asyncio.sleep(0)
    return "pay"


async def broken_request() -> str:
    await asyncio.sleep(0)
    raise ConnectionError


def model_task(fn: Any = request, **policy: Any) -> Task[..., Any]:
    return Task(fn, StepPolicy(name="model", kind=StepKind.MODEL, identity="model", **policy))


def pays(approval: Any = None) -> Any:
    @task(side_effect=True, approval=approval)
    async def pay(amount: int) -> int:
        PAID.append(amount)
        return amount

    return pay


def with_model(approval: Any = None, model: Task[..., Any] | None = None) -> Any:
    """A flow in which a model speaks before the payment."""
    pay, asks = pays(approval), model or model_task()

    @flow
    async def run() -> int:
        with suppress(ConnectionError):
            await asks()
        return await pay(5)

    return run


def without_model(approval: Any = None) -> Any:
    pay = pays(approval)

    @flow
    async def run() -> int:
        return await pay(5)

    return run


def is_asked(flow: Any, origin: Origin = Origin.PERSON, journal: MemoryJournal | None = None) -> bool:
    """Whether a person has to sign."""
    journal = journal or memory()
    outcome = start(flow, journal=journal, using=options(gate=True), origin=origin)
    assert (outcome.state is StateType.PAUSED) is not bool(PAID)
    PAID.clear()
    return outcome.state is StateType.PAUSED


@pytest.mark.parametrize(
    ("origin", "asked"),
    [
        (Origin.PERSON, False),
        (Origin.SCHEDULE, False),
        (Origin.EVENT, False),
        (Origin.MODEL, True),
        (Origin.UNKNOWN, True),
    ],
)
def test_the_starter_of_a_run_counts(origin: Origin, asked: bool) -> None:
    """A model or nobody known: signed; a person or a schedule: not."""
    assert is_asked(without_model(), origin) is asked


@pytest.mark.parametrize("policy", [{"plain": True}, {}, {"retries": 2}, {"cache_policy": TASK_SOURCE}])
def test_a_model_that_has_spoken_in_the_run_counts(policy: Any) -> None:
    """However its request is configured."""
    assert is_asked(with_model(model=model_task(**policy)))


def test_a_models_answer_taken_from_another_run_counts() -> None:
    """A cached answer has been spoken, too."""
    journal = memory()
    run = with_model(model=model_task(cache_policy=TASK_SOURCE))
    assert is_asked(run, journal=journal)
    outcome = start(run, journal=journal, using=options(gate=True))
    assert outcome.tally.cached == 1
    assert outcome.state is StateType.PAUSED


def test_a_request_that_failed_said_nothing_in_any_life() -> None:
    """What counts is a recorded response; a replay judges as the first life did."""
    lives: list[int] = []
    pay, asks = pays(), model_task(broken_request)

    @flow
    async def run() -> int:
        with suppress(ConnectionError):
            await asks()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return await pay(5)

    journal = memory()
    run_id = die(run, journal=journal, using=options(gate=True))
    assert resume(run, run_id, journal, options(gate=True)).value == 5


def test_a_model_that_spoke_in_an_earlier_life_or_a_sub_flow_counts() -> None:
    """The whole run tree, over all lives."""
    lives: list[int] = []
    pay, asks = pays(), model_task()

    @flow
    async def inner() -> str:
        return await asks()

    @flow
    async def run() -> int:
        await inner()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return await pay(5)

    journal = memory()
    run_id = die(run, journal=journal, using=options(gate=True))
    assert resume(run, run_id, journal, options(gate=True)).state is StateType.PAUSED
    assert PAID == []


def test_a_run_that_a_model_resumes_counts_from_then_on() -> None:
    """An effect before the resume was not signed, one after it is."""
    pay = pays()

    @flow
    async def run() -> list[int]:
        first = await pay(1)
        await wait_for_event("a")
        return [first, await pay(2)]

    journal = memory()
    run_id = start(run, journal=journal, using=options(gate=True)).run_id
    assert PAID == [1]
    journal.send_event(run_id, "a", b"1", 0.0)
    journal.add_origin(run_id, Origin.MODEL)
    outcome = resume(run, run_id, journal, options(gate=True))
    assert outcome.state is StateType.PAUSED
    assert PAID == [1]
    assert open_wait(journal).question["origins"] == ["model", "person"]


@pytest.mark.parametrize(
    ("rule", "person", "model"),
    [
        pytest.param(None, False, True, id="by origin"),
        pytest.param("always", True, True, id="always"),
        pytest.param("never", False, False, id="never"),
        pytest.param(Always(), True, True, id="Always"),
        pytest.param(Never(), False, False, id="Never"),
        pytest.param(ByOrigin(frozenset({Origin.PERSON})), True, True, id="another origin"),
        pytest.param(When("big", lambda call: call["amount"] > 3), True, True, id="a big amount"),
        pytest.param(When("huge", lambda call: call["amount"] > 9), False, False, id="not a huge one"),
        pytest.param(When("broken", lambda call: call["nothing"]), True, True, id="a broken test"),
        pytest.param(ByOrigin() & When("big", lambda call: call["amount"] > 3), False, True, id="both"),
        pytest.param(ByOrigin() | When("big", lambda call: call["amount"] > 3), True, True, id="either"),
    ],
)
def test_the_tasks_own_rule(rule: Any, person: bool, model: bool) -> None:
    """By origin, always, never, or a policy composed of others; in doubt, a person looks."""
    assert is_asked(without_model(rule)) is person
    assert is_asked(with_model(rule)) is model


def test_a_policys_version_is_the_digest_of_what_it_says() -> None:
    """Equal policies have equal versions."""
    assert Always().version == Always().version
    versions = {
        policy.version for policy in (Always(), Never(), ByOrigin(), Always() | Never(), Always() & Never())
    }
    assert len(versions) == 5


def test_an_effect_inside_of_an_effect_is_covered_by_its_signature() -> None:
    """One signature, for the outer one."""
    pay = pays()

    @task(side_effect=True)
    async def order() -> int:
        return await pay(7)

    @flow
    async def run() -> int:
        return await order()

    journal = memory()
    outcome = start(run, journal=journal, using=options(gate=True), origin=Origin.MODEL)
    assert open_wait(journal).name == "order"
    assert open_wait(journal).kind is WaitKind.APPROVAL
    answer(journal, Verdict.APPROVED)
    assert resume(run, outcome.run_id, journal, options(gate=True)).value == 7
