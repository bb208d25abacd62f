"""Threads of the flow's process: what flows use unless they say otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from agentflow.task_runners.checks import check_workers


@dataclass(frozen=True)
class ThreadPoolTaskRunner:
    """Submitted sync tasks run in threads, async ones on the flow's event loop.

    Args:
        max_workers: How many bodies of sync tasks one run executes at once, not counting those that wait for others.
            Default: ``AGENTFLOW_MAX_WORKERS``.

    Raises:
        DefinitionError: for a `max_workers` below 1.
    """

    max_workers: int | None = None

    def __post_init__(self) -> None:
        check_workers(self.max_workers)

    def open(self) -> None:
        """No other place: bodies run in this process."""
        return


ConcurrentTaskRunner = ThreadPoolTaskRunner
"""Prefect's other name of it."""
