"""Steps: the rows of a run's journal. A step is one call; its rows tell how it began and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class StepKind(StrEnum):
    """What was called."""

    FLOW = "flow"
    TASK = "task"
    MODEL = "model"
    TOOL = "tool"
    WAIT = "wait"
    RECORDED = "recorded"
    TRANSACTION = "transaction"
    HOOK = "hook"
    LIMIT = "limit"
    """No call, but a block that held slots of a limit: it is over, so a replay need not take them."""


class StepEvent(StrEnum):
    """What a row says about its step."""

    STARTED = "started"
    """It began. Written for a step with recorded children, and by the live view; never decides anything."""
    INTENT = "intent"
    """A side effect is about to start; durable before its body runs."""
    ATTEMPT = "attempt"
    """An attempt failed; another one follows."""
    NOT_DONE = "not_done"
    """A side effect failed and certainly did not happen; final for this life, run again on a retry."""
    UNKNOWN = "unknown"
    """A side effect failed and may have happened; nothing repeats it without a person's decision."""
    COMPLETED = "completed"
    """It ended with a value."""
    CACHED = "cached"
    """Its value was taken from an earlier run."""
    FAILED = "failed"
    """It ended with an exception."""
    ROLLING_BACK = "rolling_back"
    """A transaction is to be rolled back, whatever happens; durable before the first of its rollback hooks runs."""
    ROLLED_BACK = "rolled_back"
    """A transaction ended with all of its rollback hooks run."""

    @property
    def is_end(self) -> bool:
        """Whether a row with this event ends its step."""
        return self in ENDS


ENDS = frozenset(
    {
        StepEvent.COMPLETED,
        StepEvent.CACHED,
        StepEvent.FAILED,
        StepEvent.NOT_DONE,
        StepEvent.UNKNOWN,
        StepEvent.ROLLED_BACK,
    }
)


#: Events whose rows hold an exception instead of a value.
FAILURES = frozenset(
    {
        StepEvent.FAILED,
        StepEvent.ATTEMPT,
        StepEvent.NOT_DONE,
        StepEvent.UNKNOWN,
        StepEvent.ROLLING_BACK,
        StepEvent.ROLLED_BACK,
    }
)


class StepRow(NamedTuple):
    """One row. `scope`, `key` and `branch` are digests; see `agentflow.engine.identity`."""

    #: ``run number << 32 | sequence``: the only index of the table, append only.
    id: int
    event: str
    kind: str
    name: str
    #: Identity of the enclosing step (empty bytes: the run itself).
    scope: bytes
    #: Digest of the name and the canonical arguments.
    key: bytes
    #: The concurrent branch, within the scope, that made the call (empty bytes: the scope's own code).
    branch: bytes
    #: Which of several equal calls in that branch this is, from 0.
    occurrence: int
    #: How many side effects that branch had asked for before this call.
    effects: int
    #: Whether the step is a side effect itself.
    effect: int
    attempt: int
    #: Equal for rows that were committed together.
    batch: int
    started: float
    ended: float | None
    value: bytes | None
    #: JSON: usage of a model request, proposed arguments of an effect, a retry's due time, ...
    detail: bytes | None


SEQUENCE_BITS = 32


def sequence_of(row_id: int) -> int:
    """The position of a row in its run, from 1."""
    return row_id & 0xFFFFFFFF


class LogRow(NamedTuple):
    """One line of a run's log. `level` is the number of the standard library's `logging`."""

    run: int
    at: float
    level: int
    logger: str
    step: str
    text: str
    #: Where in the code: ``file.py:12 function``; empty = it is not code of the user's that says it.
    source: str = ""
