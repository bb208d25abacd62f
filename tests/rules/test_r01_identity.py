"""R1: a step is found again by its scope, branch, name, arguments and occurrence - not by its position in the run."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from agentflow import first, flow, scope, task
from agentflow.errors import MissingContextError
from agentflow.fingerprints import unmarked
from agentflow.model.steps import StepEvent
from tests.fundamentals.lives import Death, always, die, memory, resume, rows, start


async def turns(rng: random.Random) -> None:
    """Give way to others, for a random number of turns."""
    for _ in range(rng.randrange(6)):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(5))
def test_equal_calls_of_branches_that_diverge_later_are_not_interchangeable(seed: int) -> None:
    """Two branches lease equal jobs and charge for them: a replay in another order charges nobody twice."""
    world = {"jobs": 0, "lives": 0}
    paid: list[tuple[str, int]] = []
    rng = random.Random(seed)

    @task
    async def lease_next() -> int:
        await turns(rng)
        world["jobs"] += 1
        return world["jobs"]

    @task(side_effect=True)
    async def charge(who: str, job: int) -> int:
        await turns(rng)
        paid.append((who, job))
        if len(paid) == 2 and not world["lives"]:
            world["lives"] = 1
        return job

    async def work(who: str) -> list[int]:
        found: list[int] = []
        for _ in range(2):
            await turns(rng)
            job = await lease_next()
            found.append(await charge(who, job))
            if world["lives"] == 1:
                world["lives"] = 2
                raise Death
        return found

    @flow
    async def run() -> list[list[int]]:
        return list(await asyncio.gather(work("ann"), work("bob")))

    journal = memory()
    run_id = die(run, journal=journal)
    outcome = resume(run, run_id, journal)
    assert outcome.error is None
    assert not outcome.waiting_for or {wait.kind for wait in outcome.waiting_for} == {"in_doubt"}
    assert len(set(paid)) == len(paid)
    if outcome.value:
        assert sorted(paid) == sorted(
            (who, job) for who, jobs in zip(("ann", "bob"), outcome.value, strict=True) for job in jobs
        )


@pytest.mark.parametrize("seed", range(5))
def test_a_list_that_branches_share_is_filled_in_the_recorded_order(seed: int) -> None:
    """Replayed values arrive in journal order, so that what is made of the list is the same."""
    rng = random.Random(seed)
    lives: list[int] = []

    @task
    async def fetch(number: int) -> int:
        await turns(rng)
        return number

    @task(side_effect=True)
    async def pay(numbers: list[int]) -> list[int]:
        return numbers

    @flow
    async def run() -> list[int]:
        found: list[int] = []

        async def one(number: int) -> None:
            found.append(await fetch(number))

        await asyncio.gather(*[one(number) for number in range(8)])
        paid = await pay(found)
        lives.append(1)
        if len(lives) < 3:
            raise Death
        return paid

    journal = memory()
    run_id = die(run, journal=journal)
    with pytest.raises(Death):
        resume(run, run_id, journal)
    outcome = resume(run, run_id, journal)
    assert sorted(outcome.value) == list(range(8))
    assert len(rows(journal, "intent")) == 1


@pytest.mark.parametrize("longer", [0, 1, 7, 40])
def test_a_race_is_over_for_its_branch_when_it_is_for_others(longer: int) -> None:
    """However much longer its losers take to leave: what was committed with its result is received in that order."""
    lives: list[list[Any]] = []

    @task
    async def tick(number: int) -> int:
        return number

    async def lingering() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(longer * len(lives)):
                await asyncio.sleep(0)

    @flow
    async def run() -> list[Any]:
        got: list[Any] = []

        async def racer(number: int) -> None:
            won = await first(tick(100 + number), lingering())
            got.append(("race", number, won.which))

        async def ticking() -> None:
            for number in range(8):
                for _ in range(10):
                    await asyncio.sleep(0)
                value = await tick(number)
                got.append(value)

        await asyncio.gather(racer(0), ticking(), racer(1))
        lives.append(got)
        if len(lives) == 1:
            raise Death
        return got

    journal = memory()
    run_id = die(run, journal=journal)
    outcome = resume(run, run_id, journal)
    assert outcome.value == lives[0]
    assert outcome.tally.executed == 0


def test_a_branch_added_in_front_keeps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under changed code every step that is still the same is reused."""
    ran: list[int] = []
    lives: list[int] = []

    @task
    async def step(number: int) -> int:
        ran.append(number)
        return number

    async def branch(number: int) -> int:
        return await step(number) + await step(number + 100)

    @flow
    async def run() -> int:
        numbers = [1, 2, 3] if not lives else [0, 1, 2, 3]
        total = sum(await asyncio.gather(*[branch(number) for number in numbers]))
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return total

    journal = memory()
    run_id = die(run, journal=journal)
    ran.clear()
    monkeypatch.setattr("agentflow.beginning.fingerprint", always("changed"))
    resume(run, run_id, journal)
    assert ran == [0, 100]


def test_equal_calls_around_an_effect_keep_their_sides() -> None:
    """Where a balance before and one after a deposit are recorded, code that asks only after it gets the one after."""
    world = {"balance": 10}
    lives: list[int] = []

    @task
    def balance() -> int:
        return world["balance"]

    @task(side_effect=True)
    def deposit() -> None:
        world["balance"] += 5

    @flow
    def run() -> list[int]:
        before = 0 if lives else balance()
        deposit()
        after = balance()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return [before, after]

    journal = memory()
    run_id = die(run, journal=journal)
    world["balance"] = 99
    assert resume(run, run_id, journal).value == [0, 15]


def test_occurrences_are_counted_when_a_task_is_called() -> None:
    """Not when it is first awaited: equal calls keep their values, in whatever order they are awaited."""
    world = {"count": 0}
    lives: list[int] = []

    @task
    async def draw() -> int:
        world["count"] += 1
        return world["count"]

    @flow
    async def run() -> list[int]:
        first, second = draw(), draw()
        values = [await first, await second] if lives else [await second, await first][::-1]
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return values

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [2, 1]
    assert world["count"] == 2


def test_a_renamed_task_is_found_by_its_alias() -> None:
    """`aliases` names what it was called before."""
    ran: list[str] = []

    def body(x: int) -> int:
        ran.append("ran")
        return x

    @flow(name="renamed")
    def old() -> int:
        task(name="old")(body)(1)
        raise Death

    @flow(name="renamed")
    def new() -> int:
        return task(name="new", aliases=["old"])(body)(1)

    journal = memory()
    run_id = die(old, journal=journal)
    assert resume(new, run_id, journal).value == 1
    assert ran == ["ran"]


def test_steps_of_a_named_scope_stay_when_the_code_around_them_moves() -> None:
    """`scope` names a branch by hand: equal calls inside and outside are not mixed up."""
    world = {"count": 0}
    lives: list[int] = []

    @task
    def draw() -> int:
        world["count"] += 1
        return world["count"]

    @flow
    def run() -> list[int]:
        first = draw() if lives else 0
        with scope("mine"):
            mine = draw()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return [first, mine]

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [2, 1]


def test_a_pure_step_that_moved_to_another_branch_is_adopted_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only under changed code, and only where exactly one row matches."""
    ran: list[int] = []
    lives: list[int] = []

    @task
    async def step(number: int) -> int:
        ran.append(number)
        return number

    async def branch() -> int:
        return await step(1)

    @flow
    async def run() -> int:
        value = await asyncio.create_task(branch()) if not lives else await step(1)
        lives.append(1)
        if len(lives) < 3:
            raise Death
        return value

    journal = memory()
    run_id = die(run, journal=journal)
    with pytest.raises(Death):
        resume(run, run_id, journal)
    assert ran == [1, 1]  # unchanged code: it is another step
    lives[:] = [1, 1]
    monkeypatch.setattr("agentflow.beginning.fingerprint", always("changed"))
    outcome = resume(run, run_id, journal)
    assert outcome.value == 1
    assert ran == [1, 1]


def test_a_steps_identity_does_not_depend_on_its_module() -> None:
    """`python app.py` is `__main__`, `serve app.py` is `app`: the name is what counts."""
    ran: list[int] = []

    def make(module: str) -> Any:
        def body(x: int) -> int:
            ran.append(x)
            return x

        body.__module__ = module
        return task(body)

    @flow(name="moved")
    def first() -> int:
        make("__main__")(1)
        raise Death

    @flow(name="moved")
    def second() -> int:
        return make("app")(1)

    journal = memory()
    run_id = die(first, journal=journal)
    assert resume(second, run_id, journal).value == 1
    assert ran == [1]


def test_threads_that_copy_the_context_are_branches() -> None:
    """Calls made through `asyncio.to_thread` belong to the run and are found again."""
    ran: list[int] = []
    lives: list[int] = []

    @task
    def step(number: int) -> int:
        ran.append(number)
        return number

    @flow
    async def run() -> int:
        total = sum(await asyncio.gather(*[asyncio.to_thread(step, number) for number in range(3)]))
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return total

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == 3
    assert sorted(ran) == [0, 1, 2]


def test_the_run_row_says_what_code_it_was(tmp_path: Any) -> None:
    """Entry point, working directory, interpreter and fingerprint are stored with the run."""
    journal = memory()
    run = journal.get_run(start(module_flow, journal=journal).run_id)
    assert run is not None
    assert run.entrypoint.endswith("test_r01_identity.py:module_flow")
    assert run.cwd
    assert "python" in run.interpreter
    assert len(unmarked(run.fingerprint)[0]) == 32
    assert StepEvent.COMPLETED in {row.event for row in rows(journal)}


@task
def module_task() -> int:
    return 1


@flow
def module_flow() -> int:
    return module_task()


def test_a_thread_made_by_hand_cannot_call_an_effect() -> None:
    """It is no branch of the flow, the effect could not be found again, so it never starts."""
    done: list[int] = []

    @task(side_effect=True)
    def pay(amount: int) -> int:
        done.append(amount)
        return amount

    @flow
    def run() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, pay, 1).result()

    outcome = start(run, journal=memory())
    assert isinstance(outcome.error, MissingContextError)
    assert "task.submit" in str(outcome.error)
    assert done == []
