"""Task runners: where the bodies of submitted tasks run, for ``@flow(task_runner=...)``.

What belongs here: places for bodies. What does not: anything that the journal would have to know; records, retries,
caching, approvals and futures stay with the engine, in the flow's process.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agentflow.engine.places import TaskRunner

if TYPE_CHECKING:
    from agentflow.task_runners.dask import DaskTaskRunner
    from agentflow.task_runners.processes import ProcessPoolTaskRunner
    from agentflow.task_runners.ray import RayTaskRunner
    from agentflow.task_runners.threads import ConcurrentTaskRunner, ThreadPoolTaskRunner

_MODULES = {
    "ConcurrentTaskRunner": "threads",
    "DaskTaskRunner": "dask",
    "ProcessPoolTaskRunner": "processes",
    "RayTaskRunner": "ray",
    "ThreadPoolTaskRunner": "threads",
}

__all__ = [
    "ConcurrentTaskRunner", "DaskTaskRunner", "ProcessPoolTaskRunner", "RayTaskRunner", "TaskRunner",
    "ThreadPoolTaskRunner",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A runner, its module imported when it is asked for."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
