"""R2: effects on replay - their order, what changed code may add, and what is never dropped silently."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.errors import DivergenceError
from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from tests.fundamentals.lives import Death, answer, die, memory, open_wait, resume

PAID: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    PAID.clear()


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on another program: to be asked for after the first life has been made."""
    fingerprints = iter(["first", *["second"] * 20])

    def of_this_life(_: Any) -> str:
        return next(fingerprints)

    monkeypatch.setattr("agentflow.beginning.fingerprint", of_this_life)


@task(side_effect=True)
def pay(what: Any) -> Any:
    PAID.append(what)
    return what


@task(side_effect=True)
def mail(what: Any) -> Any:
    PAID.append(("mail", what))
    return what


@task
def pays_inside(what: Any) -> Any:
    return pay(what)


def first_life(body: Any, *, name: str = "run") -> tuple[MemoryJournal, str]:
    """A run that did `body` and then died."""

    @flow(name=name)
    def run() -> None:
        body()
        raise Death

    journal = memory()
    return journal, die(run, journal=journal)


def later(body: Any, *, name: str = "run") -> Any:
    return flow(name=name)(body)


def test_effects_in_sibling_branches_never_stop_a_run() -> None:
    """`gather(pay(1), pay(2))` replays whatever the order in which the branches come."""
    lives: list[int] = []

    @task(side_effect=True)
    async def charge(what: int) -> int:
        PAID.append(what)
        return what

    @flow
    async def run() -> list[int]:
        numbers = list(range(50))
        found = await asyncio.gather(*[charge(number) for number in (numbers if lives else numbers[::-1])])
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return sorted(found)

    journal = memory()
    run_id = die(run, journal=journal)
    outcome = resume(run, run_id, journal)
    assert outcome.value == list(range(50))
    assert len(PAID) == 50


def test_e1_another_effect_at_a_recorded_place_stops_with_the_difference_shown() -> None:
    """A person sees both and says: fail. Nothing is paid."""
    journal, run_id = first_life(lambda: pay(1))
    run = later(lambda: pay(2))
    assert resume(run, run_id, journal).state is StateType.PAUSED
    wait = open_wait(journal)
    assert wait.kind is WaitKind.DIVERGENCE
    assert wait.question["asked"] == {"tool": "pay", "arguments": {"what": 2}}
    assert wait.question["recorded"]["arguments"] == {"what": 1}
    answer(journal, Verdict.FAIL)
    outcome = resume(run, run_id, journal)
    assert isinstance(outcome.error, DivergenceError)
    assert PAID == [1]


def test_e1_a_person_may_let_the_run_go_on() -> None:
    """Then the new effect happens, once, and the recorded one is listed as not asked for."""
    journal, run_id = first_life(lambda: pay(1))
    run = later(lambda: pay(2))
    resume(run, run_id, journal)
    answer(journal, Verdict.CONTINUE)
    outcome = resume(run, run_id, journal)
    assert (outcome.value, PAID, outcome.unclaimed) == (2, [1, 2], ("pay",))


def test_e1_two_effects_that_change_places_stop() -> None:
    """The order within a branch is part of what was recorded."""

    def both() -> None:
        pay(1)
        mail(1)

    def swapped() -> None:
        mail(1)
        pay(1)

    journal, run_id = first_life(both)
    assert resume(later(swapped), run_id, journal).state is StateType.PAUSED
    assert open_wait(journal).name == "mail"
    assert PAID == [1, ("mail", 1)]


def test_e2_under_unchanged_code_new_effects_in_other_branches_are_not_held() -> None:
    """A resume in which branches come late alarms nobody."""
    lives: list[int] = []

    @task(side_effect=True)
    async def charge(what: int) -> int:
        PAID.append(what)
        if what == 3 and not lives:
            lives.append(1)
            raise Death
        return what

    async def branch(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return await charge(number)

    @flow
    async def run() -> int:
        return sum(await asyncio.gather(*[branch(number) for number in range(8)]))

    journal = memory()
    run_id = die(run, journal=journal)
    outcome = resume(run, run_id, journal)
    assert {wait.kind for wait in outcome.waiting_for} <= {WaitKind.IN_DOUBT}
    assert {wait.kind for wait in journal.list_waits()} <= {WaitKind.IN_DOUBT}


@pytest.mark.usefixtures("changed")
def test_e3_under_changed_code_a_new_effect_is_held_while_a_recorded_one_of_its_name_is_unclaimed() -> None:
    """Code that moved its payment to another branch must not pay twice without a word."""

    @task(side_effect=True, name="pay")
    async def charge(what: int) -> int:
        PAID.append(what)
        return what

    @flow(name="run")
    async def old() -> None:
        await charge(5)
        raise Death

    async def elsewhere() -> int:
        return await charge(6)

    @flow(name="run")
    async def new() -> int:
        return await asyncio.create_task(elsewhere())

    journal = memory()
    run_id = die(old, journal=journal)
    assert resume(new, run_id, journal).state is StateType.PAUSED
    assert open_wait(journal).kind is WaitKind.DIVERGENCE
    assert PAID == [5]
    answer(journal, Verdict.FAIL)
    assert isinstance(resume(new, run_id, journal).error, DivergenceError)
    assert PAID == [5]


@pytest.mark.usefixtures("changed")
def test_e3_effects_of_another_name_are_not_held() -> None:
    """Code that got a new kind of effect goes on."""
    journal, run_id = first_life(lambda: pay(1))

    def more() -> Any:
        return [pay(1), mail(2)]

    outcome = resume(later(more), run_id, journal)
    assert outcome.value == [1, 2]
    assert PAID == [1, ("mail", 2)]


def test_e4_a_step_that_contains_an_effect_counts_as_one() -> None:
    """Another argument of the task around it is another effect."""
    journal, run_id = first_life(lambda: pays_inside(1))
    assert resume(later(lambda: pays_inside(2)), run_id, journal).state is StateType.PAUSED
    assert open_wait(journal).kind is WaitKind.DIVERGENCE
    assert PAID == [1]


def test_e4_holds_for_sub_flows() -> None:
    """As for tasks."""

    @flow
    def sub(what: int) -> int:
        return pay(what)

    journal, run_id = first_life(lambda: sub(1))
    assert resume(later(lambda: sub(2)), run_id, journal).state is StateType.PAUSED
    assert PAID == [1]


def test_e4_an_effect_in_an_effect_counts_once() -> None:
    """In the first life as in those that find the outer one whole: what follows it is found."""
    ticks: list[int] = []

    @task(side_effect=True)
    def outer() -> Any:
        return pay("inner")

    @task
    def tick() -> int:
        ticks.append(1)
        return len(ticks)

    def body() -> list[int]:
        outer()
        return [tick(), tick()]

    journal, run_id = first_life(body)
    assert resume(later(body), run_id, journal).value == [1, 2]
    assert len(ticks) == 2
    assert PAID == ["inner"]


def test_e5_effects_that_the_new_code_does_not_ask_for_are_listed() -> None:
    """Never dropped silently."""

    def both() -> None:
        pay(1)
        pays_inside(2)

    journal, run_id = first_life(both)
    outcome = resume(later(lambda: "nothing"), run_id, journal)
    assert outcome.value == "nothing"
    assert outcome.unclaimed == ("pay", "pays_inside")
    assert PAID == [1, 2]


def test_an_unchanged_run_has_nothing_unclaimed() -> None:
    """What was asked for again is not listed."""
    journal, run_id = first_life(lambda: [pay(1), pays_inside(2)])
    outcome = resume(later(lambda: [pay(1), pays_inside(2)]), run_id, journal)
    assert (outcome.value, outcome.unclaimed, PAID) == ([1, 2], (), [1, 2])
