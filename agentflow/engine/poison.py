"""Runs that take their processes down again and again: counted by their lives, and ended before they do so for ever.

A life got nowhere if its process died without a word before any step had ended in it, or an attempt. So many of those
in a row, with nobody having asked for a later one, and the run is parked: it ends as CRASHED, with its lives to be
looked at, and a person may have it go on (`agentflow.rerunning`). A process that died while the run only waited, for
somebody or for a slot, says nothing of the run: such a life does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentflow.engine.hooks import tell_of_run
from agentflow.errors import CrashedRun
from agentflow.journal.protocol import Journal
from agentflow.model.lives import WHILE_WAITING, LifeEnd, waits
from agentflow.model.runs import Run
from agentflow.model.states import State, StateType
from agentflow.model.steps import SEQUENCE_BITS, StepEvent
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.runtime import Runtime

_PROGRESS = frozenset({event.value for event in StepEvent if event.is_end or event is StepEvent.ATTEMPT})


def fruitless_lives(journal: Journal, run: Run) -> int:
    """How many lives in a row ended in the death of their process and got nowhere, of a run that nobody owns now."""
    count, following = 0, 1 << SEQUENCE_BITS
    for life in reversed(journal.lives(run.number)):
        is_last = life.end is LifeEnd.RUNNING
        waited = waits(run.state) if is_last else life.message == WHILE_WAITING
        if not is_last and (life.end is not LifeEnd.CRASHED or (life.message and not waited)):
            break  # it said how it ended
        if _moved(journal, run.number, life.first, following):
            break
        count += not waited
        following = life.first
        if life.origin:  # somebody has asked for it
            break
    return count


def _moved(journal: Journal, number: int, first: int, following: int) -> bool:
    """Whether a step, or an attempt at one, ended in the life that wrote from `first` on."""
    base = number << SEQUENCE_BITS
    rows = journal.steps(number, base + first - 1, following - first)
    return any(row.event in _PROGRESS for row in rows if row.id < base + following)


def parked_message(run: Run, lives: int) -> str:
    """Why a run is parked, and what to do."""
    return (
        f"its process died {lives} times in a row before any step had ended; "
        f"find out why, then: agentflow runs retry {run.id}"
    )


async def park(active: ActiveRun, policy: StepPolicy, message: str, rt: Runtime) -> None:
    """End a run, claimed for this, as CRASHED; its hooks are told."""
    data, error = encode_failure(active.codec, CrashedRun(message))
    active.journal.set_state(
        active.number, active.epoch, StateType.CRASHED, message=message, error=data, release=True
    )
    active.leave()
    active.ending.at = active.clock()
    await tell_of_run(active, policy, State(StateType.CRASHED, message=message, data=error), rt)
