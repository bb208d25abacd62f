"""A server removes the payloads of old runs by itself."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from agentflow.flows import default_options, flow
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import RunFilter
from agentflow.model.runs import Run
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker

PATIENCE = 30.0
COUNT = 250


@flow
def quick(number: int) -> int:
    return number


def looked_after(journal: MemoryJournal, days: float, later: float) -> list[Run]:
    """The runs of a journal that have their payloads, after a server has looked at it `later` days from now."""
    settings = replace(Settings.from_environment(), retention_days=days)
    options = replace(default_options(60.0), settings=settings, clock=lambda: time.time() + later * 86_400)
    looked = threading.Event()

    class Watched(InlineWorker):
        looks = 0

        def recover(self) -> list[str]:
            self.looks += 1
            if self.looks > COUNT / 100 + 2:
                looked.set()
            self._wake.set()
            return super().recover()

    with Watched(journal, {}, options=options):
        assert looked.wait(PATIENCE)
    return [run for run in journal.list_runs(RunFilter(2 * COUNT)) if journal.pruned_at(run.number) is None]


@pytest.mark.parametrize(
    ("days", "later", "left"), [(30.0, 31.0, 0), (30.0, 29.0, COUNT), (0.0, 999.0, COUNT)]
)
def test_a_server_removes_payloads_of_old_runs(days: float, later: float, left: int) -> None:
    """After the days that are set, a few at each look until all are done; never, where retention is switched off."""
    journal = MemoryJournal()
    for number in range(COUNT):
        quick.run({"number": number}, journal=journal)
    assert len(looked_after(journal, days, later)) == left
