"""What a worker says of a journal that cannot be reached: each reason once, and when it is over."""

from __future__ import annotations

import threading
from typing import Any

from agentflow.errors import JournalUnavailable
from agentflow.flows import default_options
from agentflow.journal.memory import MemoryJournal
from agentflow.workers.inline import InlineWorker

PATIENCE = 60.0


class Refusing(MemoryJournal):
    """Refuses to say what is due, for as many looks as there are reasons."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__()
        self.reasons = reasons

    def due_runs(self, *given: Any, **options: Any) -> Any:
        if self.reasons:
            raise JournalUnavailable(self.reasons.pop(0))
        return super().due_runs(*given, **options)


def test_the_same_complaint_is_made_once() -> None:
    """However often the worker looks; another reason is told, and that it works again."""
    journal, said, all_said = Refusing(["revoked"] * 5 + ["away"] * 5), list[str](), threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        if "again" in line:
            all_said.set()

    with InlineWorker(journal, {}, options=default_options(0.0), on_error=hear):
        assert all_said.wait(PATIENCE)
    assert said == [
        "cannot look for runs to recover: revoked",
        "cannot look for runs to recover: away",
        "looks for runs to recover again",
    ]
