"""Runs that a worker's process may die of are kept away from others for a while; who only died with them is spared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentflow import flow
from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.workers.suspects import Suspects
from tests.fundamentals.lives import Clock, options
from tests.journal.test_journals import KEY, new_run

LEASE, MOST = 30.0, 3


@flow(name="flow")
def waits() -> None:
    """What the runs are runs of."""


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def journal(clock: Clock) -> MemoryJournal:
    return MemoryJournal(KEY, clock=clock)


@pytest.fixture
def worker(journal: MemoryJournal, clock: Clock) -> Callable[[], Suspects]:
    """What a process knows that has just begun."""
    return lambda: Suspects(journal, options(clock, lease=LEASE, max_crashes=MOST), print)


def begun(journal: MemoryJournal, times: int) -> Run:
    """A run whose lives ended with their processes, but for the last one."""
    run = journal.create_run(new_run())
    for _ in range(times):
        journal.close()
        run = journal.claim_run(run.id)
    return run


def seen(journal: MemoryJournal, run: Run) -> Run:
    found = journal.get_run(run.id)
    assert found is not None
    return found


def test_a_run_is_kept_apart_for_a_lease_from_when_the_other_one_began(
    journal: MemoryJournal, clock: Clock, worker: Callable[[], Suspects]
) -> None:
    """However long before that the two were looked at, and whichever of them may be the deadly one."""
    deadly, innocent = begun(journal, 3), begun(journal, 0)
    journal.close()
    for first, second in ((deadly, innocent), (innocent, deadly)):
        suspects = worker()
        assert suspects.fruitless(deadly) > suspects.fruitless(innocent) > 0
        assert not suspects.keep_apart(first, [])
        clock.now += 2 * LEASE
        assert suspects.keep_apart(second, [first.id]), "the other one has not begun yet"
        suspects.begin(first.id)
        clock.now += LEASE - 1
        assert suspects.keep_apart(second, [first.id])
        clock.now += 1
        assert not suspects.keep_apart(second, [first.id])


def test_nobody_is_kept_apart_for_longer_than_a_lease(
    journal: MemoryJournal, clock: Clock, worker: Callable[[], Suspects]
) -> None:
    """Though others begin meanwhile; those who have lived for a lease hold nobody up."""
    suspects, (one, two, three) = worker(), [begun(journal, 2) for _ in range(3)]
    journal.close()
    assert all(suspects.fruitless(run) >= 2 for run in (one, two, three))
    suspects.begin(one.id)
    clock.now += LEASE / 2
    assert suspects.keep_apart(three, [one.id])
    suspects.begin(two.id)
    assert suspects.keep_apart(three, [two.id]), "the first one has ended"
    clock.now += LEASE / 2
    assert not suspects.keep_apart(three, [two.id])
    assert suspects.keep_apart(three, [one.id, two.id]), (
        "something else has held it up, and the second one is young"
    )
    clock.now += LEASE / 2
    assert not suspects.keep_apart(three, [one.id, two.id])


def test_one_death_is_no_reason(journal: MemoryJournal, worker: Callable[[], Suspects]) -> None:
    """After a power cut everything goes on at once."""
    suspects, (one, two) = worker(), [begun(journal, 0) for _ in range(2)]
    journal.close()
    assert suspects.fruitless(one) == suspects.fruitless(two) == 1
    assert not suspects.keep_apart(two, [one.id])


@pytest.mark.parametrize("deadly_first", [True, False])
def test_who_had_lived_for_a_lease_is_not_parked_for_who_came_to_it(
    journal: MemoryJournal, clock: Clock, worker: Callable[[], Suspects], *, deadly_first: bool
) -> None:
    """Whichever of the two is looked at first."""
    innocent, deadly = begun(journal, 1), begun(journal, 1)
    journal.close()
    journal.claim_run(innocent.id)
    clock.now += LEASE
    journal.claim_run(deadly.id)
    journal.close()
    suspects = worker()
    looks = [deadly, innocent] if deadly_first else [innocent, deadly]
    parked = [run.id for run in looks if suspects.parks(waits, seen(journal, run))]
    assert parked == [deadly.id]
    assert seen(journal, deadly).state is StateType.CRASHED
    journal.claim_run(innocent.id)
    clock.now += LEASE
    journal.close()
    assert worker().parks(waits, seen(journal, innocent)), "this time it was alone"


def test_who_began_together_is_parked_together(
    journal: MemoryJournal, worker: Callable[[], Suspects]
) -> None:
    """Nothing tells which of them it was."""
    runs = [begun(journal, 0) for _ in range(2)]
    for _ in range(MOST - 1):
        journal.close()
        runs = [journal.claim_run(run.id) for run in runs]
    journal.close()
    assert all(worker().parks(waits, seen(journal, run)) for run in runs)
