"""What a body knows of its run where a task runner has sent it: in another process, without journal or engine."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a body has logged or printed."""

    level: int
    text: str
    #: Where in the code: file, line, function.
    source: str
    #: From ``log_prints``, not from a logger.
    printed: bool = False


@dataclass(frozen=True, slots=True)
class Away:
    """The step of a body that runs in another process."""

    run_id: str
    flow: str
    step: str
    #: Which attempt of it this is, from 1.
    attempt: int
    run_name: str
    task_run_name: str
    tags: frozenset[str]
    #: What `idempotency_key` gives.
    key: str
    log_prints: bool
    #: The lowest level that is recorded.
    log_level: int


@dataclass(frozen=True, slots=True)
class Abroad:
    """The step that is being run in this process for a flow in another one."""

    step: Away
    #: Records a line in the run's journal.
    tell: Callable[[Line], None]


ABROAD: ContextVar[Abroad | None] = ContextVar("agentflow_abroad", default=None)


def refusal(what: str) -> str:
    """Why something of the engine does not work in a body that was sent away, and what to do."""
    return (
        f"{what} works only where the flow itself runs, and this body was sent to another process by the flow's "
        "task runner; do it in the flow, or use a ThreadPoolTaskRunner"
    )
