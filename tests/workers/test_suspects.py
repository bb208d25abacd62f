"""Runs that a worker's process may die of are kept away from others, but not for ever."""

from __future__ import annotations

from agentflow.journal.memory import MemoryJournal
from agentflow.model.runs import Run
from agentflow.workers.suspects import Suspects
from tests.fundamentals.lives import Clock, memory, options
from tests.journal.test_journals import new_run


def died(journal: MemoryJournal, times: int) -> Run:
    """A run whose lives ended with their processes."""
    run = journal.create_run(new_run())
    for _ in range(times):
        journal.close()
        run = journal.claim_run(run.id)
    journal.close()
    return run


def test_a_run_does_not_wait_longer_than_a_lease_for_one_that_may_kill() -> None:
    """Else it would be nobody's for as long as a step of the other one lasts."""
    journal, clock = memory(), Clock(1000.0)
    suspects = Suspects(journal, options(clock, lease=30.0), print)
    deadly, innocent = died(journal, 3), died(journal, 0)
    assert suspects.fruitless(deadly) > suspects.fruitless(innocent) > 0
    assert suspects.keep_apart(innocent, [deadly.id])
    assert suspects.keep_apart(deadly, [innocent.id])
    assert not suspects.keep_apart(innocent, [])
    clock.now += 31
    assert not suspects.keep_apart(innocent, [deadly.id])
    again = died(journal, 0)
    suspects.fruitless(again)
    assert not suspects.keep_apart(again, [deadly.id]), "it has lived for a lease"
