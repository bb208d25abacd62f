"""R10: a hit across runs is a row of this run before it is delivered; what ran an effect is never shared."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentflow import INPUTS, flow, task
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import CacheFilter
from tests.fundamentals.lives import Clock, Death, always, last_run, options, resume, start


class Watched(MemoryJournal):
    """Notes what was stored."""

    def __init__(self) -> None:
        super().__init__(b"k" * 32)
        self.events: list[str] = []

    def append(self, number: int, epoch: int, rows: Any, **more: Any) -> None:
        super().append(number, epoch, rows, **more)
        self.events += [row.event for row in rows]


class Dying(MemoryJournal):
    """Dies before a write."""

    left = 1_000

    def append(self, number: int, epoch: int, rows: Any, **more: Any) -> None:
        self._count()
        super().append(number, epoch, rows, **more)

    def lock_key(self, lock: Any, around: Any = ()) -> Any:
        self._count()
        return super().lock_key(lock, around)

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.close()  # nobody owns its runs any more
            raise Death


def test_a_hit_is_committed_before_it_is_delivered() -> None:
    """Whoever receives it can rely on it to be there in the next life."""
    journal = Watched()
    seen: list[list[str]] = []

    @task(cache_key_fn=always("key"))
    def cached() -> int:
        return 1

    @flow
    def run() -> int:
        value = cached()
        seen.append(list(journal.events))
        return value

    start(run, journal=journal)
    start(run, journal=journal)
    assert seen == [["completed"], ["completed", "cached"]]


def test_an_async_hit_is_committed_before_it_is_delivered() -> None:
    """On a loop, too, alone and among branches."""
    journal = Watched()
    seen: list[list[str]] = []

    @task(cache_key_fn=always("key"))
    async def cached() -> int:
        return 1

    async def branch() -> None:
        await cached()
        seen.append(list(journal.events))

    @flow
    async def alone() -> None:
        await branch()

    @flow
    async def among() -> None:
        await asyncio.gather(branch(), branch())

    for run in (alone, among):
        start(run, journal=journal)
    assert seen[0] == ["completed"]
    assert seen[1] == seen[2] == ["completed", "cached", "cached"]


@pytest.mark.parametrize("serialised", [False, True])
def test_a_run_that_dies_anywhere_gives_the_same_result(serialised: bool) -> None:
    """Before each of its writes, hits and misses among them: no finished step runs again, and nobody holds a key."""
    policy = INPUTS.configure(isolation_level="SERIALIZABLE" if serialised else "READ_COMMITTED")
    lived = False
    at = 0
    while not lived:
        at += 1
        ran: list[int] = []
        cached = task(cache_policy=policy - "ran", name="cached")(_noting(ran))
        run = flow(name="run")(_calls(cached, (1, 2, 1, 3)))
        journal = Dying(b"k" * 32)
        start(flow(name="earlier")(_calls(cached, (2,))), journal=journal)
        journal.left = at
        try:
            outcome = start(run, journal=journal)
            lived = True
        except Death:
            run_id = last_run(journal)
            assert journal.cache_entries(CacheFilter())
            outcome = resume(run, run_id, journal)
        assert outcome.value == [1, 2, 1, 3]
        finished = [x for x in ran if ran.count(x) > 1]
        assert len(finished) <= 2, (at, ran)  # what was running when it died, and no more
        events = [row.event for row in journal.steps(2) if row.event in ("completed", "cached")]
        assert events == ["completed", "cached", "cached", "completed"]
    assert at > 4


def _noting(ran: list[int]) -> Callable[[int], int]:
    def cached(x: int) -> int:
        ran.append(x)
        return x

    return cached


def _calls(cached: Any, arguments: Sequence[int]) -> Callable[[], list[int]]:
    def run() -> list[int]:
        return [cached(x) for x in arguments]

    return run


def test_a_result_is_stored_with_its_row() -> None:
    """One transaction: there is no cached result of a step that was never completed."""
    calls: list[Any] = []

    class Failing(MemoryJournal):
        def append(self, number: int, epoch: int, rows: Any, **more: Any) -> None:
            calls.append((len(rows), len(more.get("cache", ()))))
            super().append(number, epoch, rows, **more)

    @task(cache_expiration=dt.timedelta(seconds=5))
    def cached() -> int:
        return 1

    @flow
    def run() -> int:
        return cached()

    start(run, journal=Failing(b"k" * 32), using=options(Clock()))
    assert calls == [(1, 1)]


def test_a_task_that_submitted_an_effect_is_not_cached() -> None:
    """In a thread below it, too, whether it looked at the result or not."""
    paid: list[int] = []

    @task(side_effect=True)
    def pay() -> None:
        paid.append(1)

    @task(cache_key_fn=always("key"))
    def cached() -> int:
        pay.submit()
        return 1

    @flow
    def run() -> int:
        return cached()

    journal = MemoryJournal(b"k" * 32)
    start(run, journal=journal)
    start(run, journal=journal)
    assert len(paid) == 2
