"""R10: a hit across runs is a row of this run before it is delivered; what ran an effect is never shared."""

from __future__ import annotations

import datetime as dt
from typing import Any

from agentflow import flow, task
from agentflow.journal.memory import MemoryJournal
from tests.fundamentals.lives import Clock, always, options, start


class Watched(MemoryJournal):
    """Notes what was stored."""

    def __init__(self) -> None:
        super().__init__(b"k" * 32)
        self.events: list[str] = []

    def append(self, number: int, epoch: int, rows: Any, **more: Any) -> None:
        super().append(number, epoch, rows, **more)
        self.events += [row.event for row in rows]


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
