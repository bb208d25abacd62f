"""How an ended run goes on (R7): a failed one with another attempt of its flow, any other one where it was cut off."""

from __future__ import annotations

from typing import Any

import orjson

from agentflow.engine.records import ROOT
from agentflow.errors import Fenced, RunOwnedError
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import SEQUENCE_BITS, StepEvent, StepKind, StepRow, sequence_of


def reopen(journal: Journal, run: Run, *, origin: Origin | None = None) -> Run:
    """Make an ended run PENDING; whoever claims it has it go on.

    `origin`: who asks for it, to be remembered. Raises `UsageError` where it has not ended, or has completed, and
    `RunOwnedError` where somebody else was faster.
    """
    rows = [_failed_attempt(journal, run)] if run.state is StateType.FAILED else []
    try:
        return journal.reopen_run(run.number, run.epoch, rows, origin=origin)
    except Fenced:
        raise RunOwnedError(run.id, "another process") from None


def _failed_attempt(journal: Journal, run: Run) -> StepRow:
    """The run's end as a failed attempt of its flow, which is followed by another one."""
    last, attempt = 0, 0
    for row in journal.steps(run.number):
        last = sequence_of(row.id)
        if row.event == StepEvent.ATTEMPT and row.scope == row.key == ROOT:
            attempt = row.attempt + 1
    lives = journal.lives(run.number)
    said: dict[str, Any] = orjson.loads(lives[-1].account) if lives and lives[-1].account else {}
    detail = {"culprits": said.get("culprits", ()), "since": attempt + 1, "reopened": True}
    return StepRow(
        id=run.number << SEQUENCE_BITS | last + 1,
        event=StepEvent.ATTEMPT.value,
        kind=StepKind.FLOW.value,
        name=run.flow,
        scope=ROOT,
        key=ROOT,
        branch=ROOT,
        occurrence=0,
        effects=0,
        effect=0,
        attempt=attempt,
        batch=last + 1,
        started=run.started or run.created,
        ended=run.ended,
        value=run.error,
        detail=orjson.dumps(detail),
    )
