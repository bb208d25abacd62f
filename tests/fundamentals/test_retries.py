"""Retries: how often, after which delays, and when not."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, cast

import pytest

from agentflow import exponential_backoff, flow, task
from agentflow.errors import DefinitionError
from agentflow.model.states import StateType
from tests.fundamentals.lives import Clock, Death, die, log_of, memory, options, resume, rows, start, value_of

COLOURS = ["sync", "async"]
#: Who calls, as a context variable: nothing that a step would see.
WHO: ContextVar[str] = ContextVar("WHO")


def flaky(calls: list[int], failures: int, *, colour: str = "sync", **policy: Any) -> Any:
    """A flow of one task that fails so many times."""

    def attempt() -> int:
        calls.append(1)
        if len(calls) <= failures:
            message = f"failure {len(calls)}"
            raise ValueError(message)
        return len(calls)

    @task(**policy)
    def unsteady() -> int:
        return attempt()

    @task(**policy)
    async def unsteady_async() -> int:
        await asyncio.sleep(0)
        return attempt()

    @flow
    def run() -> int:
        return unsteady()

    @flow
    async def run_async() -> int:
        return await unsteady_async()

    return run if colour == "sync" else run_async


@pytest.mark.parametrize("colour", COLOURS)
def test_n_retries_are_n_plus_one_calls(colour: str) -> None:
    """The last failure is the one that is raised; each attempt is recorded."""
    calls: list[int] = []
    journal = memory()
    outcome = start(flaky(calls, 9, colour=colour, retries=2), journal=journal)
    assert len(calls) == 3
    assert repr(outcome.error) == "ValueError('failure 3')"
    assert [row.event for row in rows(journal)] == ["attempt", "attempt", "failed"]


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        pytest.param(None, [0, 0, 0, 0], id="none"),
        pytest.param(2, [2, 2, 2, 2], id="a number"),
        pytest.param([1, 5], [1, 5, 5, 5], id="a list, the last repeats"),
        pytest.param(exponential_backoff(3), [3, 6, 12, 24], id="exponential backoff"),
    ],
)
@pytest.mark.parametrize("colour", COLOURS)
def test_delays_between_attempts(delay: Any, expected: list[float], colour: str) -> None:
    """A number, a list whose last item repeats, or a function of the number of retries."""
    clock = Clock()
    value_of(flaky([], 4, colour=colour, retries=4, retry_delay_seconds=delay), using=options(clock))
    assert clock.slept == expected


def test_jitter_makes_a_delay_longer_by_a_random_share() -> None:
    """The factor times a random number in [0, 1), here 0.5."""
    clock = Clock()
    policy: dict[str, Any] = {"retries": 1, "retry_delay_seconds": 10, "retry_jitter_factor": 0.4}
    value_of(flaky([], 1, **policy), using=options(clock))
    assert clock.slept == [12.0]


def test_an_exception_may_ask_for_a_longer_delay() -> None:
    """`retry_after` on the exception, as HTTP clients set it, is the least delay."""
    clock, calls = Clock(), list[int]()

    @task(retries=2, retry_delay_seconds=[1, 60])
    def limited() -> int:
        calls.append(1)
        if len(calls) < 3:
            error = RuntimeError("slow down")
            cast("Any", error).retry_after = 30
            raise error
        return 1

    @flow
    def run() -> int:
        return limited()

    value_of(run, using=options(clock))
    assert clock.slept == [30, 60]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_condition_decides_about_each_retry(colour: str) -> None:
    """It sees the exception; False ends the retries."""
    seen: list[str] = []

    def condition(error: BaseException) -> bool:
        seen.append(str(error))
        return "2" not in str(error)

    calls: list[int] = []
    outcome = start(flaky(calls, 9, colour=colour, retries=5, retry_condition_fn=condition))
    assert (len(calls), seen) == (2, ["failure 1", "failure 2"])
    assert repr(outcome.error) == "ValueError('failure 2')"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_condition_that_raises_means_no_retry(colour: str) -> None:
    """The original error stays; the log says why."""

    def condition(error: BaseException) -> bool:
        message = "broken"
        raise RuntimeError(message)

    calls: list[int] = []
    journal = memory()
    made = flaky(calls, 9, colour=colour, retries=5, retry_condition_fn=condition)
    outcome = start(made, journal=journal)
    assert len(calls) == 1
    assert repr(outcome.error) == "ValueError('failure 1')"
    assert outcome.state is StateType.FAILED
    assert any("broken" in line for line in log_of(journal))


@pytest.mark.parametrize("answer", [True, False])
def test_a_condition_may_be_async(answer: bool) -> None:
    """An async task's condition is awaited."""
    calls: list[int] = []

    async def condition(error: BaseException) -> bool:
        await asyncio.sleep(0)
        return answer

    @task(retries=1, retry_condition_fn=condition)
    async def unsteady() -> int:
        calls.append(1)
        raise ValueError

    @flow
    async def run() -> int:
        return await unsteady()

    start(run)
    assert len(calls) == (2 if answer else 1)


@pytest.mark.parametrize("answer", [True, False])
def test_a_sync_task_may_have_an_async_condition(answer: bool) -> None:
    """It is awaited in a thread beside, and decides as any other."""

    async def condition(error: BaseException) -> bool:
        await asyncio.sleep(0)
        return answer

    calls: list[int] = []
    start(flaky(calls, 9, retries=1, retry_condition_fn=condition))
    assert len(calls) == (2 if answer else 1)


def test_a_killed_run_goes_on_with_the_attempts_that_are_left() -> None:
    """Attempts before the kill count; the delay that was due is kept."""
    calls: list[int] = []

    class Deadly(Clock):
        def sleep(self, seconds: float) -> None:
            if not self.slept:
                self.slept.append(seconds)
                raise Death
            super().sleep(seconds)

    run = flaky(calls, 2, retries=2, retry_delay_seconds=8)
    journal, clock = memory(), Deadly(100.0)
    run_id = die(run, journal=journal, using=options(clock))
    clock.now = 105.0
    assert resume(run, run_id, journal, options(clock)).value == 3
    assert clock.slept == [8, 3.0, 8]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_retried_flow_reuses_what_completed_and_runs_again_what_failed(colour: str) -> None:
    """Completed tasks and sub-flows keep their results; a failed task gets all of its retries again."""
    ran: list[str] = []

    @task
    def good() -> str:
        ran.append("good")
        return "good"

    @task(retries=1)
    def bad() -> str:
        ran.append("bad")
        if ran.count("bad") < 4:
            raise ValueError
        return "at last"

    @flow
    def inner() -> str:
        ran.append("inner")
        return good()

    @flow(retries=1)
    def run() -> list[str]:
        ran.append("run")
        return [inner(), good(), bad()]

    @flow
    async def inner_async() -> str:
        ran.append("inner")
        return good()

    @flow(retries=1)
    async def run_async() -> list[str]:
        ran.append("run")
        return [await inner_async(), good(), bad()]

    assert value_of(run if colour == "sync" else run_async) == ["good", "good", "at last"]
    assert ran == ["run", "inner", "good", "good", "bad", "bad", "run", "bad", "bad"]


class Siblings:
    """Equal sub-flows, called by different branches: the one of "b" fails in the first attempt of the flow."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.attempts = 0

    def names(self) -> list[str]:
        """Who calls, in another order each time."""
        self.attempts += 1
        return ["a", "b", "c"] if self.attempts == 1 else ["c", "b", "a"]

    def child(self) -> str:
        """What the sub-flow does; nothing that it is given says for whom."""
        who = WHO.get()
        self.ran.append(who)
        if who == "b" and self.attempts == 1:
            raise ValueError(who)
        return f"of {who}"

    def check(self, outcome: Any) -> None:
        """Each has got its own result, and only the one that failed ran twice."""
        assert outcome == {who: f"of {who}" for who in "abc"}
        assert sorted(self.ran) == ["a", "b", "b", "c"]


def test_siblings_in_threads_keep_their_own_results_when_the_flow_is_retried() -> None:
    """Equal sub-flows that run at once are told apart by whoever calls them, in whatever order they come again."""
    siblings = Siblings()

    @flow
    def child() -> str:
        return siblings.child()

    @task
    def sibling(who: str) -> str:
        WHO.set(who)
        return child()

    @flow(retries=1)
    def run() -> dict[str, str]:
        futures = {who: sibling.submit(who) for who in siblings.names()}
        for future in futures.values():
            future.wait()
        return {who: future.result() for who, future in futures.items()}

    siblings.check(value_of(run))


def test_siblings_in_branches_keep_their_own_results_when_the_flow_is_retried() -> None:
    """The same for gathered coroutines, which need not be tasks."""
    siblings = Siblings()

    @flow
    async def child() -> str:
        await asyncio.sleep(0)
        return siblings.child()

    async def branch(who: str) -> str:
        WHO.set(who)
        return await child()

    @flow(retries=1)
    async def run() -> dict[str, str]:
        names = siblings.names()
        found: list[Any] = await asyncio.gather(*map(branch, names), return_exceptions=True)
        for error in found:
            if isinstance(error, Exception):
                raise error
        return dict(zip(names, found, strict=True))

    siblings.check(value_of(run))


def test_retries_of_a_flow_run_its_body_again() -> None:
    """The whole body, until it succeeds or the retries are used up."""
    calls: list[int] = []

    @flow(retries=2, retry_delay_seconds=4)
    def run() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError
        return len(calls)

    clock = Clock()
    assert value_of(run, using=options(clock)) == 3
    assert clock.slept == [4, 4]


def test_a_sub_flow_retries_for_itself() -> None:
    """Its caller sees only how it ended."""
    calls: list[int] = []

    @flow(retries=1)
    def inner() -> int:
        calls.append(1)
        if len(calls) < 2:
            raise ValueError
        return len(calls)

    @flow
    def outer() -> int:
        return inner()

    journal = memory()
    assert start(outer, journal=journal).value == 2
    assert [row.event for row in rows(journal, name="inner")] == ["attempt", "completed"]


@pytest.mark.parametrize(
    "policy",
    [
        {"retries": -1},
        {"retries": 60, "retry_delay_seconds": [1.0] * 51},
        {"retries": 1, "retry_delay_seconds": -1},
        {"timeout_seconds": 0},
    ],
)
def test_senseless_options_are_refused_at_definition(policy: Any) -> None:
    """Negative numbers, more than fifty delays, no time at all; for tasks and flows alike."""
    with pytest.raises(DefinitionError):
        task(**policy)(len)
    with pytest.raises(DefinitionError):
        flow(**policy)(lambda: 1)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_retries_may_be_said_of_all(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, for those that say nothing of them; a side effect says it itself."""
    for name, value in (("TASK_RETRIES", "2"), ("TASK_RETRY_DELAY_SECONDS", "7"), ("FLOW_RETRIES", "1")):
        monkeypatch.setenv(f"AGENTFLOW_{name}", value)
    ran: list[str] = []

    @task
    def fails() -> None:
        ran.append("task")
        raise ValueError

    @task
    async def fails_async() -> None:
        ran.append("task")
        raise ValueError

    @flow
    def run() -> None:
        ran.append("flow")
        fails()

    @flow
    async def run_async() -> None:
        ran.append("flow")
        await fails_async()

    clock = Clock()
    start(run if colour == "sync" else run_async, using=options(clock))
    assert ran == ["flow", "task", "task", "task"] * 2
    assert [seconds for seconds in clock.slept if seconds] == [7, 7] * 2
    assert task(retries=0)(fails.fn).policy.retries == flow(retries=0)(run.fn).policy.retries == 0
    assert task(retries=1, retry_delay_seconds=3)(fails.fn).policy.retry_delays == (3,)
    assert task(side_effect=True)(fails.fn).policy.retries == 0
    assert task(side_effect=True, idempotent=True)(fails.fn).policy.retries == 0


def test_a_failed_run_is_failed() -> None:
    """After the last retry the run's state says so."""

    @flow(retries=1)
    def run() -> int:
        raise ValueError

    assert start(run).state is StateType.FAILED
