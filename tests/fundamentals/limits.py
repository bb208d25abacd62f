"""Holders of slots, waiting runs and meters for the tests of limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from agentflow.flows import Flow
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal
from agentflow.model.limits import Claim, Grant, Limit, Slot
from tests.fundamentals.lives import KEY, Clock, memory, start

PATIENCE = 60.0


def with_limit(limit: int, *names: str, clock: Clock | None = None, **more: Any) -> MemoryJournal:
    """A journal with limits."""
    journal = memory() if clock is None else MemoryJournal(KEY, clock=clock)
    for name in names or ("db",):
        journal.set_limit(Limit(name, limit, **more))
    return journal


def take(journal: Journal, *names: str, claim: str = "other", slots: int = 1) -> None:
    """Somebody else holds slots."""
    granted = journal.claim_slots(Claim(claim, names or ("db",), slots, keeper="somebody", lease=1e9))
    assert granted is Grant.HELD


def held(journal: Journal, name: str = "db") -> list[Slot]:
    return [slot for slot in journal.list_slots(limit=name) if slot.granted is not None]


def waiting(journal: Journal, name: str = "db") -> list[Slot]:
    return [slot for slot in journal.list_slots(limit=name) if slot.granted is None]


def until(condition: Callable[[], Any], journal: Journal) -> None:
    """Wait for what another thread does, looking whenever the journal has changed."""
    changed = threading.Event()
    undo = journal.subscribe(changed.set)
    try:
        for _ in range(int(PATIENCE * 100)):
            if condition():
                return
            changed.wait(0.01)
            changed.clear()
    finally:
        undo()
    raise AssertionError("it never came to that")


@contextmanager
def beside(made: Flow[..., Any], *args: Any, journal: Journal, **more: Any) -> Generator[list[Any]]:
    """A run in a thread of its own; its outcome is in the list after the block."""
    ended: list[Any] = []
    thread = threading.Thread(
        target=lambda: ended.append(start(made, *args, journal=journal, **more)), daemon=True
    )
    thread.start()
    yield ended
    thread.join(PATIENCE)
    assert ended, "the run did not end"


class Meter:
    """How many are inside at once."""

    def __init__(self) -> None:
        self.now = self.most = self.times = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now, self.times = self.now + 1, self.times + 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1
