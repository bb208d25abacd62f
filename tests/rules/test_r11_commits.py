"""R11: what survives power loss, and what the death of the process only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentflow import INPUTS, flow, task, wait_for_event
from agentflow.engine.policy import StepPolicy
from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from agentflow.model.steps import StepKind, StepRow
from agentflow.tasks import Task
from tests.fundamentals.lives import options, resume, start


class Levels(MemoryJournal):
    """Notes at which level each row was committed."""

    def __init__(self) -> None:
        super().__init__(b"k" * 32)
        self.durable: list[tuple[str, str]] = []
        self.lazy: list[tuple[str, str]] = []

    def append(self, number: int, epoch: int, rows: Sequence[StepRow], **more: Any) -> None:
        super().append(number, epoch, rows, **more)
        level = self.durable if more.get("durable") or more.get("consumed") else self.lazy
        level += [(row.name, row.event) for row in rows]

    def start_effect(self, number: int, epoch: int, row: StepRow, **more: Any) -> None:
        super().start_effect(number, epoch, row, **more)
        self.durable.append((row.name, row.event))

    def set_state(self, number: int, epoch: int, state: StateType, **more: Any) -> None:
        super().set_state(number, epoch, state, **more)
        (self.durable if more.get("durable", True) else self.lazy).append(("run", state))


def test_effects_model_requests_answers_and_run_ends_survive_power_loss() -> None:
    """Pure steps survive the death of their process."""

    async def request() -> str:
        return "said"

    model = Task(request, StepPolicy(name="model", kind=StepKind.MODEL, plain=True))
    cached = Task(request, StepPolicy(name="cached", kind=StepKind.MODEL, cache_policy=INPUTS, identity="c"))

    @task
    def pure() -> int:
        return 1

    @task(side_effect=True)
    async def pay() -> int:
        return 1

    @flow
    async def run() -> None:
        pure()
        await model()
        await cached()
        await pay()
        await wait_for_event("a")

    journal = Levels()
    run_id = start(run, journal=journal, using=options()).run_id
    journal.send_event(run_id, "a", b"1", 0.0)
    resume(run, run_id, journal)
    assert {
        ("model", "completed"),
        ("cached", "completed"),
        ("pay", "intent"),
        ("pay", "completed"),
        ("wait_for_event:a", "completed"),
        ("run", StateType.PAUSED),
        ("run", StateType.COMPLETED),
    } <= set(journal.durable)
    assert ("pure", "completed") in journal.lazy
    assert ("pure", "completed") not in journal.durable
