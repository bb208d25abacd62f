"""R7: a resume replays everything, failures included; a retry re-executes the culprits and what follows them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentflow import flow, recorded, sleep, task
from tests.fundamentals.lives import (
    Clock,
    Death,
    die,
    last_run,
    memory,
    options,
    resume,
    rows,
    start,
    value_of,
)

RAN: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


@task
def step(name: str) -> str:
    RAN.append(name)
    return name


@task
def fails_at_first(name: str) -> str:
    RAN.append(name)
    if RAN.count(name) == 1:
        raise ValueError(name)
    return name


def test_a_caught_failure_stays_caught() -> None:
    """The fallback that was taken is taken again, although the step would succeed now."""
    lives: list[int] = []

    @flow
    def run() -> str:
        try:
            value = fails_at_first("a")
        except ValueError:
            value = step("fallback")
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return value

    journal = memory()
    run_id = die(run, journal=journal)
    outcome = resume(run, run_id, journal)
    assert (outcome.value, RAN, outcome.tally.reused) == ("fallback", ["a", "fallback"], 2)


@pytest.mark.parametrize("around", ["flow", "task"])
def test_a_retry_re_executes_the_culprit_and_what_follows_it_only(around: str) -> None:
    """Steps before it keep their values."""

    def body() -> list[str]:
        return [step("before"), fails_at_first("culprit"), step("after")]

    @task(retries=1)
    def retried() -> list[str]:
        return body()

    @flow(retries=1)
    def flow_retried() -> list[str]:
        return body()

    @flow
    def task_retried() -> list[str]:
        return retried()

    expected = ["before", "culprit", "after"]
    assert value_of(flow_retried if around == "flow" else task_retried) == expected
    assert RAN == ["before", "culprit", "culprit", "after"]


def test_a_culprit_is_found_in_causes_contexts_and_groups() -> None:
    """Also where the flow raises something of its own from it."""
    shapes: list[Any] = []

    @flow(retries=1)
    def run(shape: str) -> list[str]:
        first = step("before")
        try:
            second = fails_at_first("culprit")
        except ValueError as error:
            if shape == "cause":
                message = "own"
                raise RuntimeError(message) from error
            if shape == "context":
                raise RuntimeError  # noqa: B904 - the point of the test
            message = "own"
            raise ExceptionGroup(message, [error]) from None
        return [first, second]

    for shape in ("cause", "context", "group"):
        RAN.clear()
        assert value_of(run, shape) == ["before", "culprit"]
        shapes.append((shape, list(RAN)))
    assert shapes == [(shape, ["before", "culprit", "culprit"]) for shape in ("cause", "context", "group")]


def test_a_scope_whose_own_code_failed_runs_anew() -> None:
    """A retry over polling must not replay "pending" for ever."""

    @task
    def get_status() -> str:
        RAN.append("status")
        return "pending" if len(RAN) < 4 else "ready"

    @task(retries=5)
    def poll() -> str:
        status = get_status()
        if status == "pending":
            message = "not ready"
            raise RuntimeError(message)
        return status

    @flow
    def run() -> str:
        return poll()

    assert value_of(run) == "ready"
    assert len(RAN) == 4


def test_a_kill_between_attempts_forgets_nothing() -> None:
    """The second life goes on with the second attempt, and its steps never take the first attempt's rows."""
    lives: list[int] = []

    @task
    def draw() -> int:
        RAN.append(1)
        return len(RAN)

    @flow(retries=2)
    def run() -> int:
        value = draw()
        lives.append(value)
        if len(lives) == 1:
            raise ValueError
        if len(lives) == 2:
            raise Death
        return value

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == 2
    assert lives == [1, 2, 2]


def test_culprits_of_one_branch_leave_the_others_alone() -> None:
    """What a sibling branch has finished is reused by the retry."""

    @task
    async def fetch(name: str) -> str:
        await asyncio.sleep(0)
        RAN.append(name)
        if name == "bad" and RAN.count("bad") == 1:
            raise ValueError(name)
        return name

    async def branch(name: str) -> str:
        return await fetch(name) + await fetch(name + "2")

    @flow(retries=1)
    async def run() -> list[Any]:
        found = await asyncio.gather(branch("good"), branch("bad"), return_exceptions=True)
        for item in found:
            if isinstance(item, Exception):
                raise item
        return list(found)

    assert value_of(run) == ["goodgood2", "badbad2"]
    assert RAN.count("good") == RAN.count("good2") == 1
    assert RAN.count("bad") == 2


def test_effects_carry_over_to_a_flows_next_attempt() -> None:
    """What was paid stays paid, whoever failed."""

    @task(side_effect=True)
    def pay() -> int:
        RAN.append("paid")
        return len(RAN)

    @flow(retries=1)
    def run() -> list[Any]:
        paid = pay()
        if len(RAN) == 1:
            RAN.append("failed")
            raise ValueError
        return [paid, RAN]

    assert value_of(run) == [1, ["paid", "failed"]]


def test_a_cancelled_pure_step_leaves_no_end() -> None:
    """It is as if it had never been called."""
    never = asyncio.Event

    @task
    async def hangs() -> None:
        await never().wait()

    @flow
    async def run() -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hangs(), 0.01)
        return "went on"

    journal = memory()
    assert start(run, journal=journal).value == "went on"
    assert rows(journal) == []


def test_recorded_sources_give_every_life_the_same() -> None:
    """Time, identifiers and chance of the first life; each attempt of a retry has its own."""
    lives: list[Any] = []

    @flow
    async def run() -> bool:
        values = [recorded.now(), recorded.uuid4(), recorded.random(), recorded.random()]
        lives.append(values)
        if len(lives) == 1:
            raise Death
        await asyncio.sleep(0)
        return lives[0] == lives[1] and values[2] != values[3]

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value is True
    assert recorded.now().tzinfo is not None
    assert recorded.uuid4() != recorded.uuid4()
    assert 0 <= recorded.random() < 1


def test_a_flow_killed_in_its_retry_delay_waits_for_what_is_left_of_it() -> None:
    """The delay counts from the failure, whoever lives then."""
    journal = memory()
    clock = Clock(1000.0)
    lives: list[int] = []

    def dies_asleep(_: float) -> None:
        raise Death

    @flow(retries=1, retry_delay_seconds=30)
    def run() -> str:
        lives.append(1)
        if len(lives) == 1:
            message = "at first"
            raise RuntimeError(message)
        return "done"

    with pytest.raises(Death):
        start(run, journal=journal, using=replace(options(clock), sleep=dies_asleep))
    clock.now += 10
    assert resume(run, last_run(journal), journal, using=options(clock)).value == "done"
    assert clock.slept == [20.0]


def test_a_retry_that_waits_goes_on_to_the_effects_after_the_wait() -> None:
    """A sub-flow with an effect in it counts as one in each attempt around it, also in one that another life began."""
    journal, clock = memory(), Clock(1000.0)

    @task(side_effect=True)
    def pay(what: str) -> str:
        RAN.append(what)
        return what

    @flow
    def inner() -> str:
        return pay("inside")

    @flow(retries=1)
    def outer() -> str:
        inner()
        sleep(60).result()
        pay("after")
        if RAN.count("tried") == 0:
            RAN.append("tried")
            message = "at first"
            raise RuntimeError(message)
        return "done"

    @flow
    def run() -> str:
        return outer()

    outcome = start(run, journal=journal, using=options(clock))
    while not outcome.state.is_final:
        assert [wait.kind.value for wait in outcome.waiting_for] == ["timer"]
        clock.now += 61
        outcome = resume(run, outcome.run_id, journal, using=options(clock))
    assert outcome.value == "done"
    assert RAN == ["inside", "after", "tried"]
