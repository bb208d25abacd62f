"""R5 and R3 for forks: a new run begins where another one stood; nothing is repeated, and each new effect is signed."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from agentflow import NotDone, flow, idempotency_key, task, transaction
from agentflow.engine.flow_run import Outcome
from agentflow.engine.forks import cut_at
from agentflow.errors import ParameterError, UsageError
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from tests.fundamentals.lives import Death, answer, last_run, memory, open_wait, options, resume, rows, start

RAN: list[Any] = []
KEYS: list[str] = []


@pytest.fixture(autouse=True)
def _a_fresh_world() -> None:
    RAN.clear()
    KEYS.clear()


@task
def step(name: str) -> str:
    RAN.append(name)
    return name


@task(side_effect=True, approval="never")
def pay(name: str) -> str:
    RAN.append(f"paid {name}")
    KEYS.append(idempotency_key())
    return name


@flow
def orders(who: str = "ann", times: int = 1) -> list[str]:
    return [step("a"), pay("deposit"), step("b"), pay(who), step("c"), str(times)]


def fork(run: Flow[..., Any], source: Outcome, journal: Journal, from_step: str, **how: Any) -> Outcome:
    """Fork a run; RAN is what ran since."""
    RAN.clear()
    return run.fork(source.run_id, from_step=from_step, journal=journal, options=options(), **how)


def test_a_fork_reuses_what_came_before_and_runs_the_rest_anew() -> None:
    """Steps and side effects before the step are found as recorded; the other run stays as it was."""
    journal = memory()
    source = start(orders, journal=journal)
    before = journal.steps(1)
    made = fork(orders, source, journal, "step#2")
    assert (made.state, RAN) == (StateType.PAUSED, ["b"])
    answer(journal, Verdict.APPROVED)
    done = resume(orders, made.run_id, journal)
    assert (done.value, RAN) == (source.value, ["b", "paid ann", "c"])
    assert journal.steps(1) == before
    descent = journal.fork_of(2)
    assert descent is not None
    assert (descent.source, descent.name, descent.changed) == (source.run_id, "step", False)


def test_each_effect_of_a_fork_is_signed_whatever_its_policy_says() -> None:
    """The question shows what the other run did from there on; signing one signs no other."""

    @flow
    def run() -> list[str]:
        return [step("a"), pay("x"), pay("y")]

    journal = memory()
    source = start(run, journal=journal)
    made = fork(run, source, journal, "step")
    first = open_wait(journal)
    assert (first.kind, first.question["arguments"]) == (WaitKind.APPROVAL, {"name": "x"})
    assert first.question["original"]["effects"] == [
        {"step": seen["step"], "tool": "pay", "arguments": {"name": name}, "end": "done"}
        for seen, name in zip(first.question["original"]["effects"], ("x", "y"), strict=True)
    ]
    assert 'did from step on: pay(name="x"): done; pay(name="y"): done' in first.question["message"]
    answer(journal, Verdict.APPROVED)
    assert resume(run, made.run_id, journal).state is StateType.PAUSED
    assert open_wait(journal).question["arguments"] == {"name": "y"}
    answer(journal, Verdict.APPROVED)
    assert resume(run, made.run_id, journal).value == ["a", "x", "y"]
    assert RAN == ["a", "paid x", "paid y"]


def test_keys_against_repetition_are_new_in_a_fork() -> None:
    """Whoever executes the effect is to see another one: a person has signed it."""
    journal = memory()
    source = start(orders, journal=journal)
    made = fork(orders, source, journal, "step#2")
    answer(journal, Verdict.APPROVED)
    resume(orders, made.run_id, journal)
    assert len(KEYS) == len(set(KEYS)) == 3


def test_changed_parameters_are_checked_and_used() -> None:
    """Those that are not given stay; steps that are still the same are reused."""
    journal = memory()
    source = start(orders, journal=journal)
    with pytest.raises(ParameterError):
        fork(orders, source, journal, "step#2", parameters={"times": "many"})
    with pytest.raises(ParameterError, match="no parameter 'nobody'"):
        fork(orders, source, journal, "step#2", parameters={"nobody": 1})
    fork(orders, source, journal, "step#2", parameters={"who": "bob", "times": "2"})
    assert open_wait(journal).question["arguments"] == {"name": "bob"}
    assert RAN == ["b"]
    answer(journal, Verdict.APPROVED)
    assert resume(orders, last_run(journal), journal).value == ["a", "deposit", "b", "bob", "c", "2"]


def test_parameters_that_change_an_effect_before_the_step_stop_the_fork() -> None:
    """The other run did something else there, and it cannot be taken back: a person decides."""

    @flow
    def run(who: str) -> str:
        pay(who)
        return step("a")

    journal = memory()
    source = start(run, "ann", journal=journal)
    fork(run, source, journal, "step", parameters={"who": "bob"})
    assert open_wait(journal).kind is WaitKind.DIVERGENCE
    assert RAN == []


def test_who_asked_for_the_other_run_has_asked_for_its_fork() -> None:
    """Origins are sticky, and whoever forks is among them."""
    journal = memory()
    source = start(orders, journal=journal, origin=Origin.MODEL)
    fork(orders, source, journal, "step#2", origin=Origin.PERSON)
    found = journal.get_run(last_run(journal))
    assert found is not None
    assert found.origins == (Origin.PERSON, Origin.MODEL)


def test_an_effect_in_another_branch_that_was_under_way_is_copied_to_its_end() -> None:
    """It began before the step: the fork reuses its result, and asks nobody about it."""
    began, may_end = asyncio.Event(), asyncio.Event()

    @task(side_effect=True)
    async def slow_pay() -> str:
        RAN.append("paid")
        began.set()
        await may_end.wait()
        return "paid"

    @task
    async def quick(name: str) -> str:
        RAN.append(name)
        return name

    async def other() -> str:
        await began.wait()
        found = await quick("q")
        may_end.set()
        return found

    @flow
    async def run() -> list[str]:
        began.clear()
        may_end.clear()
        if RAN:
            began.set()
        return list(await asyncio.gather(slow_pay(), other()))

    journal = memory()
    source = start(run, journal=journal)
    assert [row.event for row in journal.steps(1)] == ["intent", "completed", "completed"]
    RAN.clear()
    RAN.append("forked")
    made = run.fork(source.run_id, from_step="quick", journal=journal, options=options())
    assert (made.value, RAN) == (["paid", "q"], ["forked", "q"])


@pytest.mark.parametrize("idempotent", [False, True])
def test_what_was_in_doubt_before_the_step_is_asked_about(idempotent: bool) -> None:
    """Also where it could safely be repeated in the other run: the fork's key would not protect it."""
    found: list[asyncio.Event] = []

    @task(side_effect=True, idempotent=idempotent)
    async def risky() -> str:
        RAN.append("risky")
        found[-1].set()
        await found[-2].wait()
        raise Death

    @task
    async def quick() -> str:
        RAN.append("quick")
        return "q"

    async def other() -> str:
        await found[-1].wait()
        value = await quick()
        found[-2].set()
        return value

    @flow
    async def run() -> list[str]:
        found.extend((asyncio.Event(), asyncio.Event()))
        if len(found) > 2:
            found[-1].set()
        return list(await asyncio.gather(risky(), other()))

    journal = memory()
    with pytest.raises(Death):
        start(run, journal=journal)
    assert [row.event for row in journal.steps(1)] == ["intent", "completed"]
    RAN.clear()
    run.fork(last_run(journal), from_step="quick", journal=journal, options=options())
    assert (open_wait(journal).kind, RAN) == (WaitKind.IN_DOUBT, ["quick"])
    answer(journal, Verdict.HAPPENED, "it did")
    assert resume(run, last_run(journal), journal).value == ["it did", "q"]


def run_of(journal: Journal, outcome: Outcome) -> Any:
    return journal.get_run(outcome.run_id)


def test_a_step_within_tasks_is_forked_with_what_is_around_it_under_way() -> None:
    """Their code runs again, and finds what it had recorded before the step."""

    @task
    def outer() -> list[str]:
        return [step("o1"), step("o2")]

    @flow
    def run() -> list[Any]:
        return [step("a"), outer(), step("z")]

    journal = memory()
    source = start(run, journal=journal)
    assert fork(run, source, journal, "step#3").value == source.value
    assert RAN == ["o2", "z"]
    assert fork(run, source, journal, "outer").value == source.value
    assert RAN == ["o1", "o2", "z"]


def test_a_step_of_a_later_attempt_is_forked_with_that_attempt() -> None:
    """The failed attempt before it stays failed, and is not made again."""

    @task(retries=1)
    def twice() -> str:
        found = step("t")
        if RAN.count("t") == 1:
            raise ValueError
        return found

    @flow
    def run() -> list[str]:
        return [twice(), step("z")]

    journal = memory()
    source = start(run, journal=journal)
    assert RAN == ["t", "t", "z"]
    RAN.clear()
    RAN.append("t")
    made = run.fork(source.run_id, from_step="step#2", journal=journal, options=options())
    assert (made.value, RAN) == (["t", "z"], ["t", "t", "z"])
    assert len([row for row in journal.steps(2) if row.event == "attempt"]) == 1


def test_wholes_are_not_forked_from_within() -> None:
    """A step of a side effect, or of a transaction: fork from that itself."""

    @task(side_effect=True)
    def big() -> str:
        return step("inside")

    @flow
    def run() -> list[str]:
        found: list[str] = []
        with transaction():
            found.append(pay("x"))
        return [*found, big()]

    journal = memory()
    source = start(run, journal=journal)
    for inside in ("step", "pay"):
        with pytest.raises(UsageError, match="is one whole"):
            fork(run, source, journal, inside)
    fork(run, source, journal, "big")
    assert open_wait(journal).name == "big"


def test_the_step_must_be_clear() -> None:
    """Names that fit several are refused with the way to say which; ends of ids will do."""
    journal = memory()
    source = start(orders, journal=journal)
    run = run_of(journal, source)
    with pytest.raises(UsageError, match="has 3 steps 'step'; say which: step#1 to step#3"):
        cut_at(journal, run, "step")
    with pytest.raises(UsageError, match="has no step 'step#4'"):
        cut_at(journal, run, "step#4")
    cut = cut_at(journal, run, "step#2")
    assert cut_at(journal, run, cut.step[-8:]) == cut
    assert [effect["arguments"] for effect in cut.happened] == [{"name": "ann"}]


def test_a_run_that_is_being_run_is_not_forked() -> None:
    """What it does next would be missing."""
    refused: list[str] = []

    @flow
    def run() -> str:
        step("a")
        with pytest.raises(UsageError, match="is being run by") as raised:
            run.fork(last_run(journal), from_step="step", journal=journal, options=options())
        refused.append(str(raised.value))
        return "done"

    journal = memory()
    assert start(run, journal=journal).value == "done"
    assert len(refused) == 1


def test_a_fork_can_be_retried_and_forked_itself() -> None:
    """It is a run like any other, and goes on asking."""

    @task(side_effect=True)
    def flaky(name: str) -> str:
        RAN.append(f"tried {name}")
        if RAN.count(f"tried {name}") == 1:
            raise NotDone(name)
        return name

    @flow
    def run() -> list[str]:
        return [step("a"), flaky("x")]

    journal = memory()
    source = start(run, journal=journal)
    source = run.retry(source.run_id, journal=journal, options=options())
    assert source.value == ["a", "x"]
    made = fork(run, source, journal, "step")
    answer(journal, Verdict.APPROVED)
    failed = resume(run, made.run_id, journal)
    assert failed.state is StateType.FAILED
    again = run.retry(made.run_id, journal=journal, options=options())
    assert again.value == ["a", "x"]
    assert RAN == ["a", "tried x", "tried x"]
    second = fork(run, again, journal, "flaky")
    assert (second.state, RAN) == (StateType.PAUSED, [])
    descent = journal.fork_of(3)
    assert descent is not None
    assert orjson.loads(descent.happened)[0]["end"] == "done"
    assert rows(journal, "completed", name="flaky")
