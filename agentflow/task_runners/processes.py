"""Processes of the flow's machine, for work that one Python process cannot share among threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentflow.task_runners.checks import check_workers

if TYPE_CHECKING:
    from agentflow.engine.places import Workplace


@dataclass(frozen=True)
class ProcessPoolTaskRunner:
    """Bodies of submitted tasks, sync and async, run in processes; each run has its own, started when needed, reused.

    Functions, arguments, results and exceptions travel by cloudpickle. A body that runs past its ``timeout_seconds`` is
    killed with its process. What a body may do there, and what not: docs/task-runners.md.

    Args:
        max_workers: How many processes one run has at most. Default: as many as the machine has processors for us.

    Raises:
        DefinitionError: for a `max_workers` below 1.
    """

    max_workers: int | None = None

    def __post_init__(self) -> None:
        check_workers(self.max_workers)

    def open(self) -> Workplace:
        """The processes of one run; none is started yet."""
        from agentflow.task_runners.pool import ProcessPlace  # noqa: PLC0415 - cloudpickle, only where it is used

        return ProcessPlace(self.max_workers or processors())


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
