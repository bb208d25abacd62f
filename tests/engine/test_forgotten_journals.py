"""What belongs to a journal goes with it: a program may open many, one after the other."""

from __future__ import annotations

import gc
import threading
from weakref import ref

from agentflow import concurrency, flow, task
from agentflow.journal.memory import MemoryJournal
from agentflow.model.limits import Limit
from tests.fundamentals.lives import memory, start

#: Looks, of a hundredth of a second each, until threads that have nothing to do have ended.
LOOKS = 300


def test_a_journal_that_nobody_uses_any_more_is_forgotten() -> None:
    """With the threads that looked after its runs and its limits."""

    @task
    def one() -> int:
        return 1

    @flow
    def run() -> int:
        with concurrency("db"):
            return one.submit().result()

    def used() -> ref[MemoryJournal]:
        journal = memory()
        journal.set_limit(Limit("db", 1))
        assert start(run, journal=journal).value == 1
        return ref(journal)

    journals = [used() for _ in range(3)]
    for _ in range(LOOKS):
        gc.collect()
        if not any(journal() for journal in journals):
            break
        threading.Event().wait(0.01)
    assert [journal() for journal in journals] == [None] * 3
