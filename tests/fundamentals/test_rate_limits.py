"""`rate_limit`: slots that are used up and come back with time."""

from __future__ import annotations

from agentflow import flow
from agentflow.concurrency import (
    AcquireConcurrencySlotTimeoutError,
    rate_limit,
)
from agentflow.errors import UsageError
from tests.fundamentals.limits import beside, until, waiting, with_limit
from tests.fundamentals.lives import Clock, Death, die, options, resume, rows, start


def test_a_rate_limit_uses_slots_up() -> None:
    """As many as there are at once, then as they come back; each a recorded step."""
    clock = Clock()
    journal = with_limit(2, "api", clock=clock, slot_decay_per_second=0.5)

    @flow
    def work() -> int:
        for _ in range(2):
            rate_limit("api")
        try:
            rate_limit("api", timeout_seconds=0)
        except AcquireConcurrencySlotTimeoutError:
            return 2
        return 3

    assert start(work, journal=journal, using=options(clock)).value == 2
    assert [row.event for row in rows(journal, name="rate_limit:api")] == ["completed", "completed", "failed"]


def test_a_rate_limit_waits_for_slots_to_come_back() -> None:
    """In async code it is awaited."""
    clock = Clock()
    journal = with_limit(1, "api", clock=clock, slot_decay_per_second=0.1)

    @flow
    async def work() -> str:
        await rate_limit("api")
        await rate_limit("api")
        return "through"

    with beside(work, journal=journal, using=options(clock)) as ended:
        until(lambda: waiting(journal, "api"), journal)
        clock.now += 10
    assert ended[0].value == "through"


def test_a_rate_limit_is_not_used_up_again_on_replay() -> None:
    """What is recorded has been paid for."""
    clock = Clock()
    journal = with_limit(3, "api", clock=clock, slot_decay_per_second=1e-9)
    alive: list[bool] = []

    @flow
    def work() -> str:
        for _ in range(3):
            rate_limit("api")
        if not alive:
            raise Death
        return "through"

    run_id = die(work, journal=journal, using=options(clock))
    alive.append(True)
    assert resume(work, run_id, journal, options(clock)).value == "through"


def test_a_rate_limit_that_nobody_awaits_fails_the_flow() -> None:
    """Like a task that is called and not awaited."""

    @flow
    async def work() -> None:
        rate_limit("api")

    outcome = start(work, journal=with_limit(1, "api", slot_decay_per_second=1.0))
    assert "rate_limit:api" in str(outcome.error)


def test_a_rate_limit_without_decay_says_what_is_missing() -> None:
    """Slots that never come back cannot be used up."""

    @flow
    def work() -> None:
        rate_limit("db")

    outcome = start(work, journal=with_limit(1))
    assert isinstance(outcome.error, UsageError)
    assert "--slot-decay-per-second" in str(outcome.error)
